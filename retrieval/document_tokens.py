"""The tokens of a document, the chunks that they belong to, and the windows that a model reads them in."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from .chunking import Span, sentence_spans, spans_between


@dataclass
class DocumentTokens:
    """Tokens of a document, with those that the tokenizer and a prompt put around it.

    Attributes:
        ids: All tokens, of which `first` to `last`, without it, are the N tokens of the document itself.
        starts: The character that each token of the document begins with, (N,).
        places: The character that it ends with, (N,).
        spans: First character of each chunk, and the one after its last.
        chunks: The chunk of each token of the document, (N,), or -1.
    """

    ids: list[int]
    first: int
    last: int
    starts: np.ndarray
    places: np.ndarray
    spans: list[Span] = field(default_factory=list)
    chunks: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))

    @property
    def around(self) -> int:
        """The number of tokens that are not the document's."""
        return len(self.ids) - (self.last - self.first)


@dataclass(frozen=True)
class Window:
    """A part of a document that is read at once, in tokens of the document itself; ends are the token after the last.

    Attributes:
        document: The number of the document.
        start: The first token that is read.
        end: The end of these.
        low: The first token whose state is taken from this window.
        high: The end of these.
    """

    document: int
    start: int
    end: int
    low: int
    high: int

    def row(self, tokens: DocumentTokens) -> list[int]:
        """Returns the ids that are read, with the tokens around the document."""
        own = tokens.ids[tokens.first + self.start : tokens.first + self.end]
        return [*tokens.ids[: tokens.first], *own, *tokens.ids[tokens.last :]]

    def chunks(self, tokens: DocumentTokens, skipped: int) -> np.ndarray:
        """Returns the chunk of each token of the row, or -1 for a token that is not taken from this window.

        Tokens before the document belong to its first chunk, those after it to its last.

        Args:
            tokens: The document.
            skipped: The number of tokens at the beginning that belong to none.
        """
        chunks = np.full(tokens.around + self.end - self.start, -1)
        chunks[tokens.first :][self.low - self.start : self.high - self.start] = tokens.chunks[self.low : self.high]
        if self.low == 0:
            chunks[: tokens.first] = 0
            chunks[:skipped] = -1
        if self.high == len(tokens.chunks):
            chunks[tokens.first + self.end - self.start :] = len(tokens.spans) - 1
        return chunks


def read_document(tokenizer: Any, text: str, prompt: str = "") -> DocumentTokens | None:
    """Returns the tokens of `prompt + text`, however many; None if the text itself has none.

    Args:
        tokenizer: A fast tokenizer.
        text: The document.
        prompt: What stands before it, and is not part of it.
    """
    read = tokenizer(
        prompt + text,
        truncation=False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,  # about documents that are longer than the model reads
    )
    offsets = np.array(read["offset_mapping"]).reshape(-1, 2) - len(prompt)
    own = np.flatnonzero((offsets[:, 1] > 0) & (np.array(read["special_tokens_mask"]) == 0))
    if not len(own):
        return None
    first, last = int(own[0]), int(own[-1]) + 1
    starts = offsets[first:last, 0].clip(min=0)
    return DocumentTokens(read["input_ids"], first, last, starts, np.maximum(offsets[first:last, 1] - 1, starts))


def cut(tokens: DocumentTokens, text: str, chunk_size: int | None) -> list[Span]:
    """Returns spans that partition the text, each with a token.

    Args:
        tokens: Those of the text.
        text: The document.
        chunk_size: The number of tokens per span; None for one span per sentence.
    """
    if chunk_size is None:
        starts = [start for start, _ in sentence_spans(text)[1:]]
    else:
        starts = sorted({int(start) for start in tokens.starts[chunk_size::chunk_size]})
    before = np.searchsorted(np.sort(tokens.places), starts)  # the number of tokens before each start
    last_of_each = dict(zip(before.tolist(), starts, strict=True))
    return spans_between([start for n, start in last_of_each.items() if 0 < n < len(tokens.places)], len(text))


def assign(tokens: DocumentTokens, spans: list[Span]) -> int | None:
    """Gives each token to the span that has its last character; returns the first span without a token, if any."""
    starts, ends = np.array(spans).T
    chunks = np.searchsorted(starts, tokens.places, side="right") - 1
    tokens.spans, tokens.chunks = spans, np.where(tokens.places < ends[chunks], chunks, -1)
    tokens.chunks[chunks < 0] = -1
    empty = np.flatnonzero(np.bincount(tokens.chunks[tokens.chunks >= 0], minlength=len(spans)) == 0)
    return int(empty[0]) if len(empty) else None


def windows(tokens: DocumentTokens, document: int, limit: int, overlap: int | None) -> Iterator[Window]:
    """Yields the windows of a document, of as many tokens as the model reads but for the last.

    A token's state is that of the window in which it is farther from the edge.

    Args:
        tokens: The document.
        document: Its number.
        limit: The number of tokens that the model reads, those around the document included.
        overlap: The number of tokens that two windows share, at least; a quarter of a window by default.

    Raises:
        ValueError: The model reads fewer tokens than there are around the document, or the overlap is not smaller than
            a window.
    """
    length, room = len(tokens.chunks), limit - tokens.around
    if room < 1:
        raise ValueError(f"max_seq_length={limit} has no room beside {tokens.around} tokens of prompt and template.")
    shared = room // 4 if overlap is None else overlap
    if not 0 <= shared < room:
        raise ValueError(f"overlap={overlap} is not within 0 <= overlap < {room}, the tokens of a window.")
    final = max(length - room, 0)
    starts = [*range(0, final, room - shared), final]
    edges = [0, *((start + room + following) // 2 for start, following in pairwise(starts)), length]
    for start, (low, high) in zip(starts, pairwise(edges), strict=True):
        yield Window(document, start, min(start + room, length), low, high)
