"""A corpus that is read from its files each time, never held in memory, and of which some documents are held out."""

import random
from array import array
from collections.abc import Iterator, Sequence
from typing import Literal

from ..tokenization.hub_data import HubData
from ..tokenization.records import BadRecords, Source
from ..tokenization.text_files import Piece, find_text_sources, iterate_pieces


Part = Literal["training", "validation"]
PARTS: tuple[Part, ...] = ("training", "validation")


class Corpus:
    """The documents of text files, split into a training and a validation part.

    Validation gets about `validation_fraction` of the characters. Whole documents are drawn at random. Where each one
    is longer than the share of validation (one long file), the end of the longest document is cut off at a line end
    instead. Memory: a number for each document.

    Args:
        files: Sources as `iterate_pieces` takes them.
        text_field: Name of the text in a record.
        validation_fraction: Share of the characters, between 0 and 1.
        seed: Of the choice of documents.
        skip_bad_records: Whether records without text are left out, with a warning; else they are an error.

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
    ):
        if not 0 < validation_fraction < 1:
            raise ValueError(f"validation_fraction={validation_fraction} must lie between 0 and 1.")
        self.sources = find_text_sources(files)
        self.text_field, self.validation_fraction, self.seed = text_field, validation_fraction, seed
        bad = BadRecords(skip_bad_records)
        self.lengths = array("q")
        for piece in iterate_pieces(self.sources, text_field, bad):
            self.lengths.extend([0] * (piece.document + 1 - len(self.lengths)))
            self.lengths[piece.document] += len(piece.text)
        bad.check()
        self.bad_records = bad.count
        self.held_out = choose_documents(self.lengths, int(validation_fraction * sum(self.lengths)), seed)
        self.longest, self.cut = -1, 0
        if not self.held_out:
            self.longest, self.cut = self._find_cut()

    @property
    def identity(self) -> dict[str, object]:
        """What the content of a part depends on, as far as the file system and fingerprints of data sets tell."""
        files: list[object] = []
        for source in self.sources:
            if isinstance(source, HubData):
                files.append((str(source), source.identity))
                continue
            for file in sorted(source.rglob("*")) or [source]:
                files.append((str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns))
        return {"files": files, "text_field": self.text_field, "split": [self.validation_fraction, self.seed]}

    def pieces(self, part: Part) -> Iterator[Piece]:
        """Yields the pieces of one part; documents keep their numbers."""
        offset = 0  # in the document that is cut
        for piece in iterate_pieces(self.sources, self.text_field, BadRecords(skip=True)):
            text = piece.text
            if piece.document == self.longest:
                border = min(max(self.cut - offset, 0), len(text))
                offset += len(text)
                text = text[:border] if part == "training" else text[border:]
            elif (piece.document in self.held_out) != (part == "validation"):
                continue
            if text:
                yield Piece(piece.document, text)

    def texts(self, part: Part) -> Iterator[str]:
        return (piece.text for piece in self.pieces(part))

    def _find_cut(self) -> tuple[int, int]:
        """The longest document, and the last line end in it that leaves validation its share."""
        total = sum(self.lengths)
        longest = max(range(len(self.lengths)), key=self.lengths.__getitem__, default=-1)
        wanted = total and self.lengths[longest] - int(self.validation_fraction * total)
        cut = offset = 0
        for piece in iterate_pieces(self.sources, self.text_field, BadRecords(skip=True)):
            if piece.document == longest and offset <= wanted:
                line_end = piece.text.rfind("\n", 0, wanted - offset) + 1
                cut = offset + line_end if line_end else cut
                offset += len(piece.text)
        if not cut:
            raise ValueError(
                f"{len(self.lengths)} documents of {total} characters are too little text to split off "
                f"validation_fraction={self.validation_fraction}."
            )
        return longest, cut


def choose_documents(lengths: Sequence[int], budget: int, seed: int) -> set[int]:
    """Numbers of documents, at random, whose lengths sum to about the budget and no more."""
    chosen: set[int] = set()
    size = 0
    for number in random.Random(seed).sample(range(len(lengths)), len(lengths)):
        if size + lengths[number] <= budget:
            chosen.add(number)
            size += lengths[number]
        elif size > budget / 2:  # to fill up the rest would favour short documents
            break
    return chosen
