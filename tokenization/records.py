"""Records from files and data sets of Hugging Face; bad ones are counted, with their place."""

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..configuration.patterns import named_type
from .hub_data import HUB_PREFIX, HubData, iterate_rows
from .record_files import READERS, Numbered, read_records
from .source_files import find_files


Source = str | Path | HubData
SHOWN = 5
Example = TypeVar("Example")


class BadRecords:
    """Collects records that cannot be used: all are counted, and the first few are shown with the reason.

    Args:
        skip: Whether to go on without them. Otherwise `check` raises an error, after all have been counted.
    """

    def __init__(self, skip: bool = False):
        self.skip = skip
        self.count = 0
        self.shown: list[str] = []

    def add(self, source: str, number: int, reason: str) -> None:
        """Counts a bad record."""
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{source}, record {number}: {reason}")

    def check(self) -> None:
        """Reports what was counted, if anything: as a warning where bad records are skipped.

        Raises:
            ValueError: There are bad records, which are not to be skipped.
        """
        if not self.count:
            return
        more = f"\n  and {self.count - len(self.shown)} more" if self.count > len(self.shown) else ""
        message = f"{self.count} records cannot be used:\n  " + "\n  ".join(self.shown) + more
        if not self.skip:
            raise ValueError(f"{message}\nMend them, or leave them out with --skip_bad_records.")
        warnings.warn(f"{message}\nThey are left out.", stacklevel=2)


def iterate_records(
    sources: Iterable[Source], fields: Mapping[str, type | tuple[type, ...]], bad: BadRecords
) -> Iterator[dict[str, Any]]:
    """Yield the fields of each record of all sources, streaming: no source is held in memory, but lists in `.json`.

    Args:
        sources: Files that end in one of `READERS`, folders of them (at any depth) or folders that
            `datasets.Dataset.save_to_disk` wrote, and `HubData` or its name, such as `hf:NAME:CONFIG:SPLIT`.
        fields: Names of the fields that a record must have, and their types.
        bad: Counts the records that are no records or lack a field. Call its `check` after the iteration.

    Raises:
        FileNotFoundError: A source does not exist, or a folder holds nothing that can be read.
        ValueError: A file of another kind, or one that cannot be read at all.
    """
    for source, records in find_sources(sources, fields):
        for number, record in records:
            if isinstance(record, str):
                bad.add(source, number, record)
            elif reason := wrong_field(record, fields):
                bad.add(source, number, reason)
            else:
                yield {name: record[name] for name in fields}


def read_examples(
    sources: Iterable[Source],
    fields: Mapping[str, type | tuple[type, ...]],
    read: Callable[[Mapping[str, Any]], Example],
    bad: BadRecords,
) -> list[Example]:
    """Reads the records of all sources, and turns each into an example.

    Args:
        sources: As for `iterate_records`.
        fields: Names of the fields that a record must have, and their types.
        read: Makes an example of a record; raises a ValueError that says why it can make none.
        bad: Counts the records that are no records, lack a field, or that `read` refuses. Call its `check` afterwards.

    Raises:
        FileNotFoundError: A source does not exist, or a folder holds nothing that can be read.
        ValueError: A file of another kind, or one that cannot be read at all.
    """
    examples = []
    for source, records in find_sources(sources, fields):
        for number, record in records:
            try:
                if isinstance(record, str):
                    raise ValueError(record)
                if reason := wrong_field(record, fields):
                    raise ValueError(reason)
                examples.append(read(record))
            except ValueError as error:
                bad.add(source, number, str(error))
    return examples


def wrong_field(record: Any, fields: Mapping[str, type | tuple[type, ...]]) -> str | None:
    """The reason why a record's fields are not as wanted, or None if they are."""
    for name, type_ in fields.items():
        if name not in record:
            return f"the field '{name}' is missing from {sorted(map(str, record))}"
        if not isinstance(record[name], type_):
            return f"the field '{name}' holds {named_type(record[name])}"
        if half := lone_surrogate(record[name]):
            return f"the field '{name}' holds {ascii(half)}, one half of a character, which is no text"
    return None


def lone_surrogate(value: Any) -> str | None:
    """The first surrogate that JSON has written in a text, or in texts at any depth; no tokenizer takes it."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, (list, tuple)):
            waiting += item
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError as error:
                return item[error.start]
    return None


def find_sources(sources: Iterable[Source], fields: Collection[str]) -> Iterator[tuple[str, Numbered]]:
    """The name of each source, and its numbered records; a text in place of a record says why there is none."""
    if isinstance(sources, (str, Path)):
        raise TypeError(f"sources={str(sources)!r} is one source; pass a list.")
    for source in sources:
        if not isinstance(source, HubData) and str(source).startswith(HUB_PREFIX):
            source = HubData(str(source))
        if isinstance(source, HubData):
            yield str(source), source.records(fields)
            continue
        for file in find_files([source], READERS):
            yield f"'{file}'", _read_saved(file, fields) if file.is_dir() else read_records(file)


def _read_saved(folder: Path, fields: Collection[str]) -> Numbered:
    from datasets import load_from_disk

    try:
        yield from iterate_rows(load_from_disk(str(folder)), fields)
    except Exception as error:  # of many classes
        raise ValueError(f"The data set in '{folder}' cannot be read: {error}") from error
