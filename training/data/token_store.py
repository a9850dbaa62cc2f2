"""Text that is tokenised once: token ids in a memory-mapped file, which later runs find again."""

from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ...tokenization.text_files import Piece
from .encoding import Encoder, encode_batches


# Characters that are tokenised at a time.
BATCH_CHARACTERS = 2**21


class TokenStore(NamedTuple):
    """The tokens of documents, memory-mapped.

    Attributes:
        tokens: Ids of all documents in a row (N,), 32-bit integers.
        ends: Where each document ends in `tokens`, 64-bit integers.
        piece_ends: Where each piece ends that the documents were read in, before what ends a document.
    """

    tokens: Tensor
    ends: Tensor
    piece_ends: Tensor


class _Writer:
    """Writes a `TokenStore`, piece by piece."""

    def __init__(self, folder: Path, separator: bytes):
        folder.mkdir(exist_ok=True)
        self.folder, self.separator = folder, separator
        self.file = (folder / "tokens").open("wb")
        self.document, self.size = None, 0
        self.ends, self.piece_ends = array("q"), array("q")

    def add(self, document: int, tokens: bytes) -> None:
        if self.document not in (None, document):
            self._end_document()
        self.document = document
        self.size += self.file.write(tokens)
        self.piece_ends.append(self.size // 4)

    def finish(self) -> None:
        self._end_document()
        for name in ("ends", "piece_ends"):
            with (self.folder / name).open("wb") as file:
                getattr(self, name).tofile(file)

    def _end_document(self) -> None:
        self.size += self.file.write(self.separator)
        self.ends.append(self.size // 4)


def write_tokens(
    folder: Path,
    pieces: Iterable[Piece],
    encode: Encoder,
    *,
    ends_with: int | None = None,
    description: str | None = None,
    processes: int | None = None,
) -> None:
    """Writes a `TokenStore` of the pieces' documents into the folder, in memory that does not grow with the text.

    The text is read once: pieces that have a `part` go to the store in the folder of that name within `folder`.

    Args:
        encode: `TokenEncoder`, or another function from texts to bytes of 32-bit integers.
        ends_with: Id of a token that follows each document, or None.
        description: Of a progress bar in characters, shown if given.
        processes: Number of processes that tokenise. Default: one for each core that this process may use.

    Raises:
        ValueError: There is no document, or fewer than one process.
    """
    separator = b"" if ends_with is None else array("i", [ends_with]).tobytes()
    writers: dict[str, _Writer] = {}
    characters = {"unit": "char", "unit_scale": True}
    with ExitStack() as files, tqdm(desc=description, disable=description is None, **characters) as progress:
        for batch, encoded in encode_batches(_batches(pieces), encode, processes):
            for piece, tokens in zip(batch, encoded, strict=True):
                if piece.part not in writers:
                    writers[piece.part] = _Writer(folder / piece.part, separator)
                    files.enter_context(writers[piece.part].file)
                writers[piece.part].add(piece.document, tokens)
            progress.update(sum(len(piece.text) for piece in batch))
        if not writers:
            raise ValueError("There is no document to tokenise.")
        for writer in writers.values():
            writer.finish()


def read_tokens(folder: Path) -> TokenStore:
    """Reads a store that `write_tokens` wrote.

    Raises:
        ValueError: The files do not belong together: some are cut off, or empty, or others.
    """
    parts = {}
    for name, type_ in {"tokens": torch.int32, "ends": torch.int64, "piece_ends": torch.int64}.items():
        size, rest = divmod((folder / name).stat().st_size, type_.itemsize)
        if rest or (name != "tokens" and not size):
            raise ValueError(f"'{folder / name}' has {size * type_.itemsize + rest} bytes: it is cut off or empty.")
        parts[name] = (
            torch.from_file(str(folder / name), size=size, dtype=type_) if size else torch.empty(0, dtype=type_)
        )
    store = TokenStore(**parts)
    borders = torch.cat([torch.zeros(1, dtype=torch.int64), store.ends])
    is_whole = store.ends[-1] - store.piece_ends[-1] in (0, 1)  # the token that ends a document follows its last piece
    if (
        store.ends[-1] != len(store.tokens)
        or (borders.diff() < 0).any()
        or not is_whole
        or (store.piece_ends.diff() < 0).any()
    ):
        raise ValueError(f"'{folder}' holds {len(store.tokens)} tokens, but 'ends' closes with {int(store.ends[-1])}.")
    return store


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """A text that is equal for two tokenizers if they split all texts equally."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.to_str() if backend is not None else repr(tokenizer)


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
