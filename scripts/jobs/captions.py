"""Pictures with captions, which formats make of the fields of records."""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trine.tokenization.records import BadRecords, read_examples
from trine.training.data.pictures import PictureSource


class Captioned(NamedTuple):
    """A picture that is not read yet, with its captions, the first of which scores are about, and its class."""

    source: PictureSource
    captions: list[str]
    label: str | None


def fields_of(formats: Sequence[str]) -> set[str]:
    """The fields that formats such as `"{name}, {category}"` name.

    Raises:
        ValueError: A format names none, or cannot be read.
    """
    found: set[str] = set()
    for text in formats:
        try:
            names = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        except ValueError as error:
            raise ValueError(f"captions={text!r} cannot be read: {error}.") from error
        if not names or not all(name.isidentifier() for name in names):
            raise ValueError(f"captions={text!r} must name fields of the records in braces, as '{{text}}'.")
        found |= names
    return found


def read_captioned(
    files: Sequence[str], image_field: str, formats: Sequence[str], label_field: str | None, bad: BadRecords
) -> list[Captioned]:
    """The pictures of records, each with a caption for each format.

    Raises:
        OSError: A source does not exist, or a file of records cannot be read.
        ValueError: A format cannot be read.
    """
    names = sorted(fields_of(formats))
    wanted: dict[str, Any] = {image_field: object, **dict.fromkeys(names, (str, int))}
    if label_field is not None:
        wanted[label_field] = (str, int)
    found: list[Captioned] = []
    for name in files:
        base = Path(name) if Path(name).is_dir() else Path(name).parent

        def read(record: Mapping[str, Any], base: Path = base) -> Captioned:
            source = record[image_field]
            if isinstance(source, str):
                source = base / source
                if not source.is_file():
                    raise ValueError(f"the field '{image_field}' names '{source}', which is no file")
            empty = [each for each in names if not str(record[each]).strip()]
            if empty:
                raise ValueError(f"the field '{empty[0]}' is empty")
            captions = [text.format(**{each: record[each] for each in names}) for text in formats]
            return Captioned(source, captions, None if label_field is None else str(record[label_field]))

        found += read_examples([name], wanted, read, bad)
    return found
