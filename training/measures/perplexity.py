"""How well a causal language model predicts texts, whatever its tokens are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from .intervals import bootstrap_interval


@dataclass(frozen=True)
class TextLosses:
    """The negative log-likelihoods of texts.

    Args:
        nats: Of each text (number of texts,), in nats.
        tokens: The number of tokens of each.
        bytes: The number of bytes of each, in UTF-8.
    """

    nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray

    @property
    def per_token(self) -> float:
        """Nats per token, which depends on the tokenizer; its exponential is the perplexity."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text, which can be compared between models with different tokens, and with compressors."""
        return float(self.nats.sum() / math.log(2) / self.bytes.sum())

    def interval(self) -> tuple[float, float]:
        """The bootstrap's 95 % interval of `bits_per_byte`, over texts."""
        return bootstrap_interval(self.nats / math.log(2) / self.bytes, weights=self.bytes)


def first_token(tokenizer: Any) -> int:
    """The token before a text: the one that the tokenizer puts there, or the one that ended the text before.

    Raises:
        ValueError: The tokenizer has neither.
    """
    if tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id:
        return tokenizer.bos_token_id
    if tokenizer.eos_token_id is None:
        raise ValueError("The tokenizer has neither a bos_token that it puts before texts nor an eos_token.")
    return tokenizer.eos_token_id


@torch.no_grad()
def text_losses(
    model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int = 8, max_length: int | None = None
) -> TextLosses:
    """Measure a causal language model on texts, each by itself.

    A text longer than `max_length` is read in windows that overlap by half: each token but those of the first window
    has at least half a window before it.

    Args:
        model: With `logits` in its output.
        tokenizer: Its tokenizer.
        texts: At least one; an empty one counts nothing.
        batch_size: Windows at a time, of like length.
        max_length: Tokens in a window; by default `max_position_embeddings` of the model, and at most 1,024.

    Raises:
        ValueError: No text with a token, or `max_length` below 2.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1024
    length = min(limit, 1024) if max_length is None else max_length
    if length < 2:
        raise ValueError(f"max_length={length} must be at least 2.")
    start = first_token(tokenizer)
    encoded = [[start, *ids] for ids in tokenizer([*texts], add_special_tokens=False, verbose=False).input_ids]
    windows = [
        (number, ids[max(0, end - length) : end], max(end - first, 0))
        for number, ids in enumerate(encoded)
        for first, end in _spans(len(ids), length)
    ]
    if not windows:
        raise ValueError("No text has a token.")
    nats = np.zeros(len(encoded))
    windows.sort(key=lambda window: len(window[1]))
    for place in range(0, len(windows), batch_size):
        batch = windows[place : place + batch_size]
        for (number, _, scored), values in zip(batch, _nats(model, [ids for _, ids, _ in batch]), strict=True):
            nats[number] += values[-scored:].sum().item()
    sizes = (np.array([len(ids) - 1 for ids in encoded]), np.array([len(text.encode()) for text in texts]))
    read = sizes[0] > 0
    return TextLosses(nats[read], sizes[0][read], sizes[1][read])


def _spans(count: int, length: int) -> list[tuple[int, int]]:
    """The tokens that each window scores, as (first, end): all but the start, each once."""
    if count <= length:
        return [(1, count)] if count > 1 else []
    ends = [*range(length, count, max(length // 2, 1)), count]
    return [*zip([1, *ends], ends, strict=False)]


def _nats(model: Any, rows: list[list[int]]) -> list[torch.Tensor]:
    """The negative log-likelihood of each token of each row but its first, in double precision."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    losses = functional.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none").double().cpu()
    return [values[: len(row) - 1] for values, row in zip(losses, rows, strict=True)]
