"""Where `trine words` has its vectors from: a model's folder, or a file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModel, AutoTokenizer

import trine  # noqa: F401 - registers the models of this package with the Auto classes
from trine.inspection.word_lookup import look_up
from trine.inspection.word_pieces import Spelling
from trine.inspection.words import SENTENCE, add_words, read_vectors, word_vectors
from trine.scripts.jobs.encoders import check_weights, load_encoder, quiet_loading


class Source(NamedTuple):
    """Vectors of words, and the model that makes further ones, where it is one.

    Args:
        name: What is printed.
        vectors: gensim's `KeyedVectors`.
        model: A model of transformers, or a SentenceTransformer; None for a file.
        tokenizer: Its own.
        layer: Of the vectors.
    """

    name: str
    vectors: Any
    model: Any = None
    tokenizer: Any = None
    layer: int | str = 0

    def look_up(self, words: Sequence[str]) -> list[str]:
        """The keys of words; what is not there as it was written is told in a line."""
        found = look_up(self.vectors, words, self.model, self.tokenizer, self.layer)
        for note in found.notes:
            print(f"Note: {note}")
        return found.keys

    def add_all(self, words: Sequence[str]) -> None:
        """Adds words of several pieces, but for those that the tokenizer does not know."""
        if self.tokenizer is None:
            return
        spelling = Spelling(self.tokenizer)
        folded = {key.upper() for key in self.vectors.index_to_key}
        missing = [word for word in words if word.upper() not in folded]
        known = [w for w, row in zip(missing, spelling.pieces(missing), strict=True) if spelling.spells(row)]
        if known:
            add_words(self.vectors, self.model, spelling, known, self.layer)


def load_model(name: str, layer: int | str, device: str | None, trust_remote_code: bool) -> tuple[Any, Any]:
    """A model and its tokenizer: a SentenceTransformer where sentences are asked for, else the model within.

    Raises:
        OSError: It cannot be read.
        ValueError: It cannot be used.
    """
    if layer == SENTENCE:
        encoder = load_encoder(name, device, trust_remote_code)
        return encoder, encoder.tokenizer
    folder, code = text_folder(name), {"trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **code)
        with quiet_loading(folder):  # `check_weights` says what matters
            model = AutoModel.from_pretrained(folder, dtype=torch.float32, **code)
    except OSError as error:
        raise OSError(f"model='{name}' cannot be read: {error}") from error
    with quiet_loading(folder):
        check_weights(name, model, code)
    return model.to(device or torch.accelerator.current_accelerator() or "cpu").eval(), tokenizer


def text_folder(name: str) -> str:
    """The folder of the model of transformers in that of a SentenceTransformer, which may be a folder within."""
    listing = Path(name) / "modules.json"
    if not listing.is_file():
        return name
    modules = json.loads(listing.read_text(encoding="utf-8"))
    inner = next((part["path"] for part in modules if part["type"].endswith("Transformer")), "")
    return str(Path(name) / inner) if inner else name


def model_source(
    name: str, loaded: tuple[Any, Any], layer: int | str, words: Sequence[str] | None, most: int, batch_size: int
) -> Source:
    """The vectors of a model: of the given words, or of the first `most` that are one token each; 0 is all."""
    model, tokenizer = loaded
    words = Spelling(tokenizer).known() if words is None else words
    words = words[: most or None]
    vectors = word_vectors(model, tokenizer, words, layer, batch_size)
    place = {0: "input embeddings", SENTENCE: "sentence embeddings"}.get(layer, f"states of layer {layer}")
    return Source(f"{name}, {place}, {len(vectors):,} words", vectors, model, tokenizer, layer)


def file_source(name: str) -> Source:
    """The vectors of a file or folder."""
    vectors = read_vectors(name)
    return Source(f"{name}, {len(vectors):,} words", vectors)


def read_words(name: str) -> list[str]:
    """The words of a file, one a line.

    Raises:
        ValueError: It holds none.
        OSError: It cannot be read.
    """
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise OSError(f"words='{name}' cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"words='{name}' is not UTF-8 text: {error}") from error
    words = [*dict.fromkeys(" ".join(line.split()) for line in lines if line.strip())]
    if not words:
        raise ValueError(f"words='{name}' holds no words, one a line.")
    return words
