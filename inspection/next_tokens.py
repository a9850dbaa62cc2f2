"""The most probable tokens after a text."""

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import torch
from transformers import PreTrainedTokenizerBase


class NextToken(NamedTuple):
    """A candidate: how it is spelled, its id, and its probability."""

    token: str
    id: int
    probability: float


@overload
def next_token_probabilities(
    model: Any, tokenizer: PreTrainedTokenizerBase, text: str, k: int = 5
) -> list[NextToken]: ...


@overload
def next_token_probabilities(
    model: Any, tokenizer: PreTrainedTokenizerBase, text: Sequence[str], k: int = 5
) -> list[list[NextToken]]: ...


@torch.no_grad()
def next_token_probabilities(
    model: Any, tokenizer: PreTrainedTokenizerBase, text: str | Sequence[str], k: int = 5
) -> list[NextToken] | list[list[NextToken]]:
    """The `k` most probable tokens after `text`, best first; of several texts, such a list for each.

    A decoder continues the text; an empty one is begun with the BOS token. For an encoder-decoder, the text is the
    source and the token is the first of the target. Probabilities are the model's own, over its whole vocabulary, at
    temperature 1, without dropout; `model` may be an `Ensemble`. Several texts are one batch, padded on the left, and
    give what each gives alone.

    Raises:
        ValueError: `k` is not between 1 and the size of the vocabulary, there is no text, or an empty one and no BOS
            token, or the model predicts no next tokens: of a masked one, ask the pipeline "fill-mask".
    """
    if not model.can_generate() or not getattr(model.config, "decoder_is_causal", True):
        raise ValueError(
            f"{type(model).__name__} predicts no next token. For tokens behind a mask there is pipeline('fill-mask')."
        )
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    if not (isinstance(k, int) and 1 <= k <= vocab_size):
        raise ValueError(f"k={k} must be a number from 1 to vocab_size={vocab_size}.")
    texts = [text] if isinstance(text, str) else list(text)
    if not texts:
        raise ValueError("text is an empty list.")
    was_training = model.training
    model.eval()
    try:
        logits = _next_logits(model, _tokenize(model, tokenizer, texts))
    finally:
        model.train(was_training)
    probabilities = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    values, ids = probabilities.topk(k, dim=-1)
    rows = [
        [NextToken(_spell(tokenizer, id), id, value) for id, value in zip(*row, strict=True)]
        for row in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    return rows[0] if isinstance(text, str) else rows


def _tokenize(model: Any, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> dict[str, torch.Tensor]:
    """Ids and mask, (texts, length)."""
    if "" in texts and not model.config.is_encoder_decoder:
        if tokenizer.bos_token is None:
            raise ValueError(f"text[{texts.index('')}] is empty, and the tokenizer has no bos_token to begin with.")
        texts = [text or str(tokenizer.bos_token) for text in texts]
    rows = [tokenizer(text, return_token_type_ids=False)["input_ids"] for text in texts]
    width = max(map(len, rows))
    if not all(rows):
        raise ValueError(f"text[{[*map(bool, rows)].index(False)}] has no tokens.")
    # Padded here, as the tokenizer may have no padding token; under the mask any id will do.
    ids = [[row[0]] * (width - len(row)) + row for row in rows]  # pyright: ignore[reportOperatorIssue] lists of ids
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return {
        "input_ids": torch.tensor(ids, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }


def _next_logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the next token, (texts, vocabulary)."""
    mask = inputs["attention_mask"]
    if model.config.is_encoder_decoder:
        start = model.generation_config.decoder_start_token_id
        start = model.generation_config.bos_token_id if start is None else start
        if start is None:
            raise ValueError("decoder_start_token_id=None and bos_token_id=None: nothing begins the target.")
        inputs["decoder_input_ids"] = torch.full((len(mask), 1), start, device=mask.device)
    else:
        inputs["position_ids"] = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        if getattr(model.config, "prefix_lm", False):  # as `generate` does
            inputs["prefix_length"] = mask.sum(dim=-1)
    return model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]


def _spell(tokenizer: PreTrainedTokenizerBase, id: int) -> str:
    """The text of a token; for a part of a character, which has none, its name in the vocabulary."""
    text = tokenizer.decode([id])
    if not text or "\ufffd" in text:
        text = tokenizer.convert_ids_to_tokens(id) or f"<{id}>"
    return str(text)
