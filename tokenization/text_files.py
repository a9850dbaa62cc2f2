"""Reads documents from text files in pieces of bounded size, for training tokenizers and models."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .hub_data import HUB_PREFIX, HubData
from .record_files import READERS, ending_of, not_utf8
from .records import BadRecords, Source, iterate_records
from .source_files import find_files


PLAIN = (".txt", ".md", ".rst")
ENDINGS = (*PLAIN, *READERS)
# Characters after which a plain text is cut at the end of a line, so that a file of any size needs little memory.
PIECE_SIZE = 2**20


class Piece(NamedTuple):
    """A piece of a document, the number of that document among all, and the part of a corpus that it is in."""

    document: int
    text: str
    part: str = ""


def iterate_text_files(
    sources: Iterable[Source], text_field: str = "text", *, skip_bad_records: bool = False
) -> Iterator[str]:
    """The texts of the pieces of `iterate_pieces`, for training a tokenizer; bad records are reported at the end."""
    bad = BadRecords(skip_bad_records)
    yield from (piece.text for piece in iterate_pieces(sources, text_field, bad))
    bad.check()


def iterate_pieces(sources: Iterable[Source], text_field: str, bad: BadRecords) -> Iterator[Piece]:
    """Yield the documents of text files and folders, streaming: a plain text file is one, and so is each record.

    Only plain texts of more than `PIECE_SIZE` characters come in several pieces. What is white space only is left out.

    Args:
        sources: Plain text files (`PLAIN`), what `iterate_records` reads, and folders of both.
        text_field: Name of the text in a record.
        bad: Counts records without one. Call its `check` after the iteration.

    Raises:
        ValueError: A plain text file is not UTF-8; besides the errors of `find_files` and `iterate_records`.
    """
    number = -1
    for source in find_text_sources(sources):
        for document in _documents(source, text_field, bad):
            number += 1
            yield from (Piece(number, text) for text in document if text and not text.isspace())


def find_text_sources(sources: Iterable[Source]) -> list[Path | HubData]:
    """The data sets that `sources` name, and the files."""
    if isinstance(sources, (str, Path)):
        raise TypeError(f"files={str(sources)!r} is one path; pass a list of paths.")
    sources = list(sources)
    named = [source for source in sources if str(source).startswith(HUB_PREFIX)]
    paths: list = [source for source in sources if source not in named]
    hub = [source if isinstance(source, HubData) else HubData(str(source)) for source in named]
    return [*hub, *(find_files(paths, ENDINGS) if paths or not hub else [])]


def _documents(source: Path | HubData, text_field: str, bad: BadRecords) -> Iterator[Iterable[str]]:
    if isinstance(source, Path) and ending_of(source) in PLAIN:
        yield _read_plain(source)
    else:
        yield from ((record[text_field],) for record in iterate_records([source], {text_field: str}, bad))


def _read_plain(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig") as stream:
            while lines := stream.readlines(PIECE_SIZE):
                yield "".join(lines)
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(file)) from error
