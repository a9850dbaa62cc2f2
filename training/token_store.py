"""Text that is tokenised once: token ids in a memory-mapped file, which later runs find again."""

import atexit
import hashlib
import json
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.constants import HF_HOME
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..tokenization.text_files import Piece
from .encoding import Encoder, encode_batches


DEFAULT_CACHE = Path(HF_HOME) / "trine"
# Part of each key: what is stored has another layout or meaning after a change.
VERSION = 2
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


def find_or_make(cache: Path, key: dict[str, Any] | None, make: Callable[[Path], object]) -> Path:
    """The folder of the cache that belongs to the key; if there is none, `make` fills a new one.

    It appears under its name when it is whole. Without a key, the folder is removed when the program ends.
    """
    cache.mkdir(parents=True, exist_ok=True)
    if key is None:
        folder = Path(tempfile.mkdtemp(dir=cache, prefix="unnamed-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        make(folder)
        return folder
    text = json.dumps({"version": VERSION, **key}, sort_keys=True, default=str)
    folder = cache / hashlib.sha256(text.encode()).hexdigest()[:32]
    if not folder.exists():
        part = Path(tempfile.mkdtemp(dir=cache, prefix="part-"))
        try:
            make(part)
            part.rename(folder)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            if not folder.exists():  # else another process was faster
                raise
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return folder


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

    Args:
        encode: `TokenEncoder`, or what else makes bytes of 32-bit integers of texts.
        ends_with: Id of a token that follows each document, or None.
        description: Of a progress bar in characters, shown if given.
        processes: How many tokenise. Default: one for each core that this process may use.

    Raises:
        ValueError: There is no document, or fewer than one process.
    """
    current, size, ends, piece_ends = None, 0, array("q"), array("q")
    separator = b"" if ends_with is None else array("i", [ends_with]).tobytes()
    characters = {"unit": "char", "unit_scale": True}
    with (
        (folder / "tokens").open("wb") as file,
        tqdm(desc=description, disable=description is None, **characters) as progress,
    ):
        for batch, encoded in encode_batches(_batches(pieces), encode, processes):
            for piece, tokens in zip(batch, encoded, strict=True):
                if current not in (None, piece.document):
                    size += file.write(separator)
                    ends.append(size // 4)
                current = piece.document
                size += file.write(tokens)
                piece_ends.append(size // 4)
            progress.update(sum(len(piece.text) for piece in batch))
        if current is None:
            raise ValueError("There is no document to tokenise.")
        size += file.write(separator)
        ends.append(size // 4)
    for name, values in (("ends", ends), ("piece_ends", piece_ends)):
        with (folder / name).open("wb") as file:
            values.tofile(file)


def read_tokens(folder: Path) -> TokenStore:
    """What `write_tokens` wrote there."""
    types = {"tokens": torch.int32, "ends": torch.int64, "piece_ends": torch.int64}
    files = {name: folder / name for name in types}
    sizes = {name: file.stat().st_size // types[name].itemsize for name, file in files.items()}
    return TokenStore(
        **{name: torch.from_file(str(files[name]), size=sizes[name], dtype=type_) for name, type_ in types.items()}
    )


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """A text that is equal for tokenizers that split texts equally."""
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
