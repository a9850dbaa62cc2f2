"""A corpus that is read from its files each time, never held in memory, and of which some documents are held out."""

import json
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from ...tokenization.hub_data import HubData
from ...tokenization.records import BadRecords, Source
from ...tokenization.text_files import Piece, find_text_sources, iterate_pieces
from .cache_folders import find_or_make


Part = Literal["training", "validation"]
PARTS: tuple[Part, ...] = ("training", "validation")


class Corpus:
    """The documents of text files, split into a training and a validation part.

    Validation gets about `validation_fraction` of the characters. Whole documents are drawn at random. Where each one
    is longer than the share of validation (one long file), the end of the longest document is cut off at a line end
    instead. To tell the lengths of documents, the text is read once; what was found is kept in the cache. Memory: a
    number for each document.

    Args:
        files: Sources as `iterate_pieces` takes them.
        text_field: Name of the text in a record.
        validation_fraction: Share of the characters, between 0 and 1.
        seed: Of the choice of documents.
        skip_bad_records: Whether records without text are left out, with a warning; else they are an error.
        cache: Folder in which later runs and other processes find what was counted; None keeps nothing.

    Raises:
        ValueError: A fraction outside (0, 1), too little text to leave something on both sides, or bad records;
            besides the errors of `iterate_pieces`.
    """

    def __init__(
        self,
        files: Sequence[Source],
        *,
        text_field: str = "text",
        validation_fraction: float = 0.05,
        seed: int = 0,
        skip_bad_records: bool = False,
        cache: Path | None = None,
    ):
        if not 0 < validation_fraction < 1:
            raise ValueError(f"validation_fraction={validation_fraction} must lie between 0 and 1.")
        self.sources = find_text_sources(files)
        self.text_field, self.validation_fraction, self.seed = text_field, validation_fraction, seed
        self.cache = cache
        bad = BadRecords(skip_bad_records)
        content = {"files": self._identify_files(), "text_field": text_field}
        self.lengths, (bad.count, bad.shown) = self._keep({"lengths": content}, self._count)
        bad.check()
        self.bad_records = bad.count
        self.held_out = choose_documents(self.lengths, int(validation_fraction * sum(self.lengths)), seed)
        self.longest, self.cut = -1, 0
        if not self.held_out:
            (self.longest, self.cut), _ = self._keep({"cut": self.identity}, self._find_cut)

    @property
    def identity(self) -> dict[str, object]:
        """A fingerprint of the texts of a part, by the file system and by fingerprints of data sets."""
        split = [self.validation_fraction, self.seed]
        return {"files": self._identify_files(), "text_field": self.text_field, "split": split}

    def pieces(self) -> Iterator[Piece]:
        """Yields the pieces of all documents, each with its part."""
        offset = 0  # in the document that is cut
        for piece in self._read(BadRecords(skip=True)):
            if piece.document != self.longest:
                yield piece._replace(part="validation" if piece.document in self.held_out else "training")
                continue
            border = min(max(self.cut - offset, 0), len(piece.text))
            offset += len(piece.text)
            for part, text in zip(PARTS, (piece.text[:border], piece.text[border:]), strict=True):
                if text:
                    yield Piece(piece.document, text, part)

    def texts(self, part: Part) -> Iterator[str]:
        """Yields the texts of a part, in pieces."""
        return (piece.text for piece in self.pieces() if piece.part == part)

    def _read(self, bad: BadRecords) -> Iterator[Piece]:
        return iterate_pieces(self.sources, self.text_field, bad)

    def _identify_files(self) -> list[object]:
        files: list[object] = []
        for source in self.sources:
            if isinstance(source, HubData):
                files.append((str(source), source.identity))
                continue
            for file in sorted(source.rglob("*")) or [source]:
                files.append((str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns))
        return files

    def _keep(self, key: dict[str, Any], compute: Callable[[], tuple[array, Any]]) -> tuple[array, Any]:
        """The result of `compute`, numbers and JSON, from the cache if it is there."""

        def make(folder: Path) -> None:
            numbers, note = compute()
            (folder / "numbers").write_bytes(numbers.tobytes())
            (folder / "note.json").write_text(json.dumps(note), encoding="utf-8")

        with nullcontext(self.cache) if self.cache else TemporaryDirectory() as cache:
            folder = find_or_make(Path(cache), key, make)
            note = json.loads((folder / "note.json").read_text(encoding="utf-8"))
            return array("q", (folder / "numbers").read_bytes()), note

    def _count(self) -> tuple[array, tuple[int, list[str]]]:
        """The characters of each document; how many bad records there are, and the first of them."""
        lengths, bad = array("q"), BadRecords()
        for piece in self._read(bad):
            lengths.extend([0] * (piece.document + 1 - len(lengths)))
            lengths[piece.document] += len(piece.text)
        return lengths, (bad.count, bad.shown)

    def _find_cut(self) -> tuple[array, None]:
        """The longest document, and the last line end in it that leaves validation its share."""
        total = sum(self.lengths)
        longest = max(range(len(self.lengths)), key=self.lengths.__getitem__, default=-1)
        wanted = total and self.lengths[longest] - int(self.validation_fraction * total)
        cut = offset = 0
        for piece in self._read(BadRecords(skip=True)):
            if piece.document == longest and offset <= wanted:
                line_end = piece.text.rfind("\n", 0, wanted - offset) + 1
                cut = offset + line_end if line_end else cut
                offset += len(piece.text)
        if not cut:
            raise ValueError(
                f"{len(self.lengths)} documents of {total} characters are too little text to split off "
                f"validation_fraction={self.validation_fraction}."
            )
        return array("q", [longest, cut]), None


def choose_documents(lengths: Sequence[int], budget: int, seed: int) -> set[int]:
    """Chooses documents at random whose lengths sum to about the budget and no more; returns their numbers."""
    chosen: set[int] = set()
    size = 0
    for number in random.Random(seed).sample(range(len(lengths)), len(lengths)):
        if not lengths[number]:  # nothing but white space
            continue
        if size + lengths[number] <= budget:
            chosen.add(number)
            size += lengths[number]
        elif size > budget / 2:  # to fill up the rest would favour short documents
            break
    return chosen
