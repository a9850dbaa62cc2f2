"""The tokens that begin and end a text for a model that writes: one rule for all commands."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase


# What takes the place of a token that a tokenizer does not name, the first that it has.
STAND_INS = {"bos_token": ("cls_token",), "eos_token": ("sep_token",), "pad_token": ("eos_token",)}


def name_ends(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Names the special tokens that a model needs, in place; returns the new names with their tokens.

    Where a text begins and ends is told by `bos_token` and `eos_token`, and in BERT's tokenizers, which have neither,
    by `cls_token` and `sep_token`. Without a token for padding, that of the end takes its place (GPT-2). No token is
    added to the vocabulary, and texts are encoded as before; the names are saved with the tokenizer.

    Raises:
        ValueError: Nothing ends a text.
    """
    named = {name: token for name, token in find_ends(tokenizer).items() if token and getattr(tokenizer, name) is None}
    for name, token in named.items():
        setattr(tokenizer, name, token)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "The tokenizer has neither eos_token nor sep_token: nothing would tell a model where a text ends."
        )
    return named


def find_ends(tokenizer: PreTrainedTokenizerBase) -> dict[str, str | None]:
    """The tokens that begin, end and pad a text, by name: those that `name_ends` would name, or None."""
    found: dict[str, str | None] = {}
    for name, others in STAND_INS.items():
        known = (found.get(other) or getattr(tokenizer, other) for other in (name, *others))
        found[name] = next((token for token in known if token is not None), None)
    return found


def end_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The ids for the config of a model, after `name_ends`; None where the tokenizer has no such token."""
    return {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in ("pad_token", "bos_token", "eos_token")}


def decoder_start(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The id that the decoder of an encoder-decoder begins with: that of the beginning, else that of padding (T5)."""
    return tokenizer.pad_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def encode_targets(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    start: int | None,
    ends: int | Sequence[int] | None,
    max_length: int,
    forced: int | None = None,
) -> list[list[int]]:
    """The ids that a decoder is to write for each text, at most `max_length`.

    They are the tokenizer's, without the token that the decoder begins with by itself or that begins all texts (<s>,
    [CLS]), which would say nothing, and with one that ends them.

    Args:
        start: The decoder's `decoder_start_token_id`; None keeps what begins a text.
        ends: The model's `eos_token_id`; the first of several is added where none of them stands, and none for None.
        forced: The model's `forced_bos_token_id`, which is kept: it writes that token itself (BART).
    """
    ends = [ends] if isinstance(ends, int) else [*(ends or [])]
    rows: Any = tokenizer(text_target=list(texts), verbose=False)["input_ids"]
    named: list[Any] = [] if start is None else [start, tokenizer.bos_token_id, tokenizer.cls_token_id]
    beginnings = {*named} - {forced}
    targets = []
    for row in rows:
        row = row[1:] if row and row[0] in beginnings else row
        end = row[-1:] if row and row[-1] in ends else ends[:1]
        row = row[:-1] if row[-1:] == end else row
        targets.append([*row[: max_length - len(end)], *end])
    return targets
