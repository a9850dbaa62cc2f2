"""Vectors of the chunks of a document that know the rest of it.

Source: Günther et al. 2024, Late chunking, arXiv 2409.04701.
"""

# Shapes: C chunks of a document, H hidden, D dimensions of a vector.

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import truncate_embeddings
from torch.nn.utils.rnn import pad_sequence

from ..configuration.patterns import named_type
from .checks import check_count
from .chunking import Span, check_spans
from .document_tokens import DocumentTokens, Window, assign, cut, read_document, windows


class LateChunks(NamedTuple):
    """Chunks of one document.

    Attributes:
        vectors: One per chunk, (C, D).
        spans: First character of each chunk in the document, and the one after its last.
    """

    vectors: np.ndarray
    spans: list[Span]


@overload
def late_chunks(
    model: SentenceTransformer,
    document: str,
    *,
    chunks: Sequence[Any] | None = ...,
    chunk_size: int | None = ...,
    overlap: int | None = ...,
    prompt: str | None = ...,
    prompt_name: str | None = ...,
    normalize_embeddings: bool = ...,
    batch_size: int = ...,
) -> LateChunks: ...
@overload
def late_chunks(
    model: SentenceTransformer,
    document: list[str] | tuple[str, ...],
    *,
    chunks: Sequence[Any] | None = ...,
    chunk_size: int | None = ...,
    overlap: int | None = ...,
    prompt: str | None = ...,
    prompt_name: str | None = ...,
    normalize_embeddings: bool = ...,
    batch_size: int = ...,
) -> list[LateChunks]: ...
def late_chunks(
    model: SentenceTransformer,
    document: str | list[str] | tuple[str, ...],
    *,
    chunks: Sequence[Any] | None = None,
    chunk_size: int | None = None,
    overlap: int | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    normalize_embeddings: bool = False,
    batch_size: int = 32,
) -> LateChunks | list[LateChunks]:
    """Embeds chunks of documents in the context of the whole document.

    The model reads the document at once. A chunk's vector is the mean over the hidden states of its tokens, which have
    seen the others, and then takes the model's further modules (`Dense`, `Normalize`). In a decoder, a token has seen
    only what is to its left.

    A token belongs to the chunk of its last character. Tokens before the text, such as `[CLS]` and those of the
    prompt, belong to the first chunk, those after it to the last: a single chunk gets the vector of
    `model.encode_document`.

    A document that is longer than the model reads is read in windows; a token's state is that of the window in which
    it is farther from the edge. Each window has the prompt and the special tokens, of which those of the first and of
    the last window count.

    Args:
        model: A `Transformer` with a fast tokenizer, `Pooling` by the mean, and any modules after them.
        document: One text, or several.
        chunks: Sorted spans (start, end) of characters that do not overlap; for several texts, a list for each. They
            may leave out parts of the text. By default one chunk per sentence, as of `sentence_spans`.
        chunk_size: Instead, the number of tokens per chunk. Bytes of one character stay together.
        overlap: The number of tokens that two windows share; by default a quarter of a window.
        prompt: A text before each document. By default that of `encode_document`: the model's prompt named `document`,
            `passage` or `corpus`, or else its default one.
        prompt_name: Instead, the name of one of the model's prompts.
        normalize_embeddings: Whether vectors get the length 1, even if the model has no `Normalize`.
        batch_size: The number of windows that are read at once.

    Returns:
        Vectors and spans of the text, or a list of these for several. By sentences and by tokens, the spans partition
        the text; a sentence without a token (of control characters, say) is joined to the one before it.

    Raises:
        TypeError: `chunks` and `chunk_size` are given both, or a document is no text.
        ValueError: The model pools in another way, its tokenizer does not say where tokens stand, or it reads fewer
            tokens than the prompt has; a document or a chunk has no token; a value is out of its range.
    """
    if chunks is not None and chunk_size is not None:
        raise TypeError(f"Give chunks or chunk_size={chunk_size}, not both.")
    for name, value in (("chunk_size", chunk_size), ("batch_size", batch_size)):
        if value is not None:
            check_count(name, value)
    check_parts(model)
    single = isinstance(document, str)
    if not single and not isinstance(document, (list, tuple)):
        raise TypeError(f"document={document!r:.80} is {named_type(document)}, neither a text nor a list of texts.")
    texts = [document] if isinstance(document, str) else [*document]
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"document[{number}]={text!r:.80} is {named_type(text)}, not a text.")
    given = [chunks] if single or chunks is None else [*chunks]
    if chunks is None:
        given = given * len(texts)
    if len(given) != len(texts):
        raise ValueError(f"chunks has {len(given)} lists of spans for {len(texts)} documents.")
    prompt = _prompt_of(model, prompt, prompt_name)
    documents = [
        _parted(model, text, prompt, spans, chunk_size, number)
        for number, (text, spans) in enumerate(zip(texts, given, strict=True))
    ]
    means = _means(model, documents, overlap, _skipped(model, prompt), batch_size)
    results = [
        LateChunks(_finish(model, vectors, normalize_embeddings), tokens.spans)
        for vectors, tokens in zip(means, documents, strict=True)
    ]
    return results[0] if single else results


def check_parts(model: SentenceTransformer) -> None:
    """Refuses a model of whose vectors a part of the document has none."""
    modules: list[Any] = [*model]
    if len(modules) < 2 or not isinstance(modules[0], Transformer) or not isinstance(modules[1], Pooling):
        names = [type(module).__name__ for module in modules]
        raise ValueError(f"modules={names} do not begin with ['Transformer', 'Pooling'], the mean over tokens.")
    transformer, pooling = modules[:2]
    if pooling.pooling_mode != "mean":
        raise ValueError(
            f"pooling_mode={pooling.pooling_mode!r} is not one of ['mean']: the other poolings have no vector of a "
            "part of the document."
        )
    if "message" in transformer.modality_config:
        raise ValueError("modality_config has 'message': a chat template hides where the document's tokens are.")
    if not getattr(transformer.tokenizer, "is_fast", False):
        raise ValueError(
            f"tokenizer={type(transformer.tokenizer).__name__} does not say which characters a token stands for; late "
            "chunking needs a fast tokenizer, one with a tokenizer.json."
        )


def _prompt_of(model: SentenceTransformer, prompt: str | None, name: str | None) -> str:
    """The prompt that `encode_document` would take."""
    if prompt is not None:
        return prompt
    if name is not None and name not in model.prompts:
        raise ValueError(f"prompt_name={name!r} is not one of {[*model.prompts]}.")
    names = [name, *("document", "passage", "corpus"), model.default_prompt_name]
    return next((model.prompts[choice] or "" for choice in names if choice in model.prompts), "")


def _skipped(model: SentenceTransformer, prompt: str) -> int:
    """The number of tokens at the beginning that the pooling leaves out."""
    pooling: Any = model[1]
    if not prompt or pooling.include_prompt:
        return 0
    return int(model.preprocess(["text"], prompt=prompt)["prompt_length"])


def _parted(
    model: SentenceTransformer, text: str, prompt: str, given: Any, chunk_size: int | None, number: int
) -> DocumentTokens:
    """The tokens of a document, given to its chunks."""
    spans = None if given is None else check_spans(given, len(text))
    tokens = read_document(model.tokenizer, text, prompt)
    if tokens is None:
        raise ValueError(f"document[{number}]={text[:60]!r} has no token.")
    empty = assign(tokens, spans or cut(tokens, text, chunk_size))
    if empty is not None:
        start, end = tokens.spans[empty]
        raise ValueError(f"chunks[{empty}]={(start, end)} of document[{number}], {text[start:end]!r}, has no token.")
    return tokens


@torch.inference_mode()
def _means(
    model: SentenceTransformer, documents: list[DocumentTokens], overlap: int | None, skipped: int, batch_size: int
) -> list[torch.Tensor]:
    """Means over the states of the tokens of each chunk: (C, H) for each document."""
    model.eval()
    transformer: Any = model[0]
    limit = int(transformer.document_length or model.max_seq_length or max(len(tokens.ids) for tokens in documents))
    todo = [window for number, tokens in enumerate(documents) for window in windows(tokens, number, limit, overlap)]
    todo.sort(key=lambda window: window.start - window.end)  # long ones first
    sums: dict[int, torch.Tensor] = {}
    counts: dict[int, torch.Tensor] = {}
    for place in range(0, len(todo), batch_size):
        batch = todo[place : place + batch_size]
        states = _states(model, [window.row(documents[window.document]) for window in batch])
        for window, row in zip(batch, states, strict=True):
            _add(row, window, documents[window.document], skipped, sums, counts)
    return [(sums[number] / counts[number][:, None]).to(model.dtype) for number in range(len(documents))]


def _states(model: SentenceTransformer, rows: list[list[int]]) -> torch.Tensor:
    """Hidden states of rows of tokens, (rows, longest row, H)."""
    tokenizer, ids = model.tokenizer, [torch.tensor(row) for row in rows]
    padded = pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id or 0)
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    features: dict[str, Any] = {"input_ids": padded.to(model.device), "attention_mask": mask.to(model.device)}
    if "token_type_ids" in tokenizer.model_input_names:
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    return model[0](features)["token_embeddings"]


def _add(
    states: torch.Tensor,
    window: Window,
    tokens: DocumentTokens,
    skipped: int,
    sums: dict[int, torch.Tensor],
    counts: dict[int, torch.Tensor],
) -> None:
    """Adds the states (longest row, H) of a window to the sums and counts of its document."""
    wide = torch.promote_types(states.dtype, torch.float32)
    number, chunks = window.document, torch.tensor(window.chunks(tokens, skipped), device=states.device)
    if number not in sums:
        sums[number] = states.new_zeros((len(tokens.spans), states.shape[-1]), dtype=wide)
        counts[number] = states.new_zeros(len(tokens.spans), dtype=wide)
    counted = chunks >= 0
    sums[number].index_add_(0, chunks[counted], states[: len(chunks)][counted].to(wide))
    counts[number] += torch.bincount(chunks[counted], minlength=len(tokens.spans))


@torch.inference_mode()
def _finish(model: SentenceTransformer, means: torch.Tensor, normalize: bool) -> np.ndarray:
    """Vectors (C, D), as `encode` returns them, from means (C, H) through the modules behind the pooling."""
    features: dict[str, Any] = {"sentence_embedding": means}
    modules: list[Any] = [*model]
    for module in modules[2:]:
        features = module(features)
    vectors = truncate_embeddings(features["sentence_embedding"], model.truncate_dim)
    if normalize:
        vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return (vectors.float() if vectors.dtype == torch.bfloat16 else vectors).cpu().numpy()
