"""Reads pairs of texts, one to search with and one to find, and holds some of them out."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from trine.scripts.arguments.pairs import RetrievalPairArguments
from trine.tokenization.records import BadRecords, read_examples
from trine.training.objectives.views import VIEWS


Pair = tuple[str, ...]  # anchor, positive and, if there are any, negatives


def read_and_split(
    arguments: RetrievalPairArguments,
    seed: int,
    *,
    text_field: str | None = None,
    views: str = "crops",
    group_field: str | None = None,
) -> tuple[list[Pair], list[str], list[Pair], dict[str, int]]:
    """Pairs to train on, their groups, pairs to validate with, and numbers.

    No text that is held out is in a training pair.

    Args:
        arguments: The files and their fields.
        seed: Of what is held out, and of views.
        text_field: Field of texts without pairs, each of which is to find itself.
        views: How such a text is read twice, of `VIEWS`.
        group_field: Field of the groups.

    Raises:
        OSError: Files that cannot be read.
        ValueError: Records that cannot be used, or too few of them.
    """
    names = [arguments.anchor_field, arguments.positive_field]
    if arguments.negative_field is not None:
        names.append(arguments.negative_field)
    bad = BadRecords(arguments.skip_bad_records)
    train_names = names if text_field is None else [text_field]
    grouping = [] if group_field is None else [group_field]
    rows = read_texts(arguments.files, [*train_names, *grouping], bad)
    validation_pairs = read_texts(arguments.validation_files, names, bad) if arguments.validation_files else []
    bad.check()
    width = len(train_names)
    if not arguments.validation_files:
        random.Random(seed).shuffle(rows)
        number = max(1, round(arguments.validation_fraction * len(rows)))
        validation_pairs, rows = [row[:width] for row in rows[:number]], rows[number:]
    hidden = {text for pair in validation_pairs for text in pair[:2]}
    rows = [row for row in rows if not hidden & {*row[: min(width, 2)]}]
    train_pairs, groups = [row[:width] for row in rows], [row[width] for row in rows if grouping]
    if text_field is not None:
        look, generator = VIEWS[views], random.Random(seed)
        train_pairs = [look(text, generator) for (text,) in train_pairs]
    counts = {"training_pairs": len(train_pairs), "validation_pairs": len(validation_pairs)}
    if not all(counts.values()):
        raise ValueError(f"files={arguments.files} leave too little: {counts}.")
    return train_pairs, groups, validation_pairs, {**counts, "bad_records": bad.count}


def read_texts(files: Sequence[str], names: Sequence[str], bad: BadRecords) -> list[Pair]:
    """The texts of these fields of each record; faults of other records are added to `bad`."""

    def read(record: Mapping[str, Any]) -> Pair:
        texts = tuple(record[name] for name in names)
        if not all(text.strip() for text in texts):
            raise ValueError(f"one of {[*names]} is empty")
        return texts

    return read_examples(files, dict.fromkeys(names, str), read, bad)
