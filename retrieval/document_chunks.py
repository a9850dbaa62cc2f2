"""Documents that an index holds as chunks, each with a vector that knows the rest of its document."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from sentence_transformers import SentenceTransformer

from .checks import check_count
from .chunking import Span
from .encoding import USUAL_BATCH, batch_of
from .late_chunking import check_parts, late_chunks


KEY = "late_chunking"  # of what a store knows of its vectors
CHUNK_ID = re.compile(r"(.*)#(\d+)-(\d+)", re.DOTALL)


class Chunk(NamedTuple):
    """A place in a document.

    Args:
        document: The id of the document.
        span: Its first character, and the one after its last.
    """

    document: str
    span: Span

    @property
    def id(self) -> str:
        """The id under which a store holds it, `DOCUMENT#FIRST-LAST`."""
        return f"{self.document}#{self.span[0]}-{self.span[1]}"


def read_chunk(id_: str) -> Chunk:
    """The place that an id of a chunk names."""
    found = CHUNK_ID.fullmatch(id_)
    if found is None:
        raise ValueError(f"id={id_!r} is not that of a chunk, DOCUMENT#FIRST-LAST, as an index of chunks holds.")
    return Chunk(found[1], (int(found[2]), int(found[3])))


class LateChunking:
    """Cuts documents, and embeds each chunk in the context of its document, as `late_chunks` does.

    Args:
        model: With the mean over tokens.
        chunk_size: Tokens of a chunk; None for a sentence each.
        batch_size: Windows that are read at a time. By default 32, and on a CPU fewer of long ones.

    Raises:
        ValueError: The model pools in another way, or the size is not at least 1.
    """

    def __init__(self, model: SentenceTransformer, chunk_size: int | None, batch_size: int | None = None):
        check_parts(model)
        if chunk_size is not None:
            check_count("chunk_size", chunk_size)
        self.model, self.chunk_size, self.batch_size = model, chunk_size, batch_size

    def cut(self, documents: Mapping[str, str]) -> tuple[dict[str, str], np.ndarray]:
        """The texts of all chunks, by their ids, and their vectors (C, size).

        The chunks of a document, one after the other, are its text.
        """
        batch_size = self.batch_size or USUAL_BATCH
        if self.batch_size is None and self.model.device.type == "cpu":
            batch_size = batch_of(max(documents.values(), key=len), self.model.max_seq_length)
        cosine = self.model.similarity_fn_name == "cosine"
        options: Any = {"chunk_size": self.chunk_size, "normalize_embeddings": cosine, "batch_size": batch_size}
        found = late_chunks(self.model, [*documents.values()], **options)
        texts: dict[str, str] = {}
        for (id_, text), chunks in zip(documents.items(), found, strict=True):
            texts |= {Chunk(id_, (start, end)).id: text[start:end] for start, end in chunks.spans}
        return texts, np.concatenate([each.vectors for each in found])


def ids_by_document(ids: Iterable[str]) -> dict[str, list[str]]:
    """The ids of chunks of each document, in the order of its text."""
    places: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in map(read_chunk, ids):
        places[chunk.document].append(chunk)
    return {name: [each.id for each in sorted(chunks, key=lambda each: each.span)] for name, chunks in places.items()}
