"""Data sets by name, on the Hub or in a folder, as `datasets.load_dataset` finds them: fetched once, kept on disk."""

import re
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any


HUB_PREFIX = "hf:"
# Rows that are read at a time: one by one, reading takes several times as long.
ROWS = 100
NAMES = "hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT"


class HubData:
    """A split of a data set, by default `train`.

    It is prepared once on the disk (by `datasets`, in HF_HOME), where this process, others and later runs find it.

    Args:
        source: `hf:NAME`, `hf:NAME:SPLIT` or `hf:NAME:CONFIG:SPLIT`; a split may be a part of one, `train[:1%]`.

    Raises:
        ValueError: Another text.
    """

    def __init__(self, source: str):
        self.source = source
        parts = re.split(r":(?![^\[]*\])", source.removeprefix(HUB_PREFIX))  # not within train[10:20]
        if not 1 <= len(parts) <= 3 or not parts[0]:
            raise ValueError(f"'{source}' does not name a data set: write {NAMES}.")
        self.name, self.split = parts[0], parts[-1] if len(parts) > 1 and parts[-1] else "train"
        self.config = parts[1] or None if len(parts) == 3 else None

    def __str__(self) -> str:
        return self.source

    @cached_property
    def data(self) -> Any:
        """The split, memory-mapped.

        Raises:
            ValueError: There is none of this name, or it cannot be fetched.
        """
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ValueError(f"'{self}' needs datasets: pip install 'trine[scripts]'.") from error
        try:
            return load_dataset(self.name, self.config, split=self.split)
        except Exception as error:  # of many classes, not all of them errors of files or values
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"The data set '{self}' cannot be read: {reason}. Data sets are named {NAMES}."
            ) from error

    @property
    def identity(self) -> str:
        """A fingerprint of the data set: its files, or its commit on the Hub, its version, and the split."""
        return self.data._fingerprint

    def records(self, fields: Collection[str]) -> Iterator[tuple[int, Any]]:
        """The numbered rows of the split."""
        return iterate_rows(self.data, fields)


def iterate_rows(data: Any, fields: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbered rows of a data set; where it has all of the fields, nothing else is read."""
    if set(fields) <= set(data.column_names):
        data = data.select_columns(list(fields))
    number = 0
    for batch in data.iter(ROWS):
        for values in zip(*batch.values(), strict=True):
            number += 1
            yield number, dict(zip(batch, values, strict=True))
