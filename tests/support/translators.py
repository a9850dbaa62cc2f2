"""Small encoder-decoders for the tests of decoding, and the scores of every sequence that they can write."""

import itertools

import torch
from support.tiny import SIZES
from torch import nn

from trine import (
    TrineForConditionalGeneration,
    TrineRecurrentConfig,
    TrineRecurrentForConditionalGeneration,
    TrineSeq2SeqConfig,
)


PAD, BOS, EOS = 0, 1, 2
TOKENS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "decoder_start_token_id": BOS}


def tiny_translator(kind: str = "transformer", *, vocab_size=61, seed=0, scale=1.5, attn=None, **fields):
    """An evaluation-mode model in float64 in which every parameter is random: "transformer" or "recurrent".

    As `tiny_model`, it has the attention that users get, unless `attn` names another.
    """
    torch.manual_seed(seed)
    if kind == "recurrent":
        fields = {"hidden_size": 12, "num_hidden_layers": 2, "attention": "dot", **fields}
        config = TrineRecurrentConfig(vocab_size=vocab_size, **TOKENS, **fields)
        model = TrineRecurrentForConditionalGeneration(config)
    else:
        sizes = {**SIZES, "vocab_size": vocab_size}
        decoder = {**sizes, **{name: TOKENS[name] for name in list(TOKENS)[:3]}, **fields}
        kernels: dict = {"attn_implementation": attn, "experts_implementation": "eager"}
        config = TrineSeq2SeqConfig(
            encoder={**sizes, **fields}, decoder=decoder, decoder_start_token_id=BOS, **kernels
        )
        model = TrineForConditionalGeneration(config)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale).add_(torch.randn_like(parameter), alpha=0.2)
    return model


def pad_rows(rows: list[torch.Tensor], side: str = "right") -> dict[str, torch.Tensor]:
    """Ids and mask of rows of different lengths. Padding holds a real token's id, which must not matter."""
    width = max(map(len, rows))
    pads = [(0, width - len(row)) if side == "right" else (width - len(row), 0) for row in rows]
    ids = [nn.functional.pad(row, pad, value=3) for row, pad in zip(rows, pads, strict=True)]
    mask = [nn.functional.pad(torch.ones_like(row), pad) for row, pad in zip(rows, pads, strict=True)]
    return {"input_ids": torch.stack(ids), "attention_mask": torch.stack(mask)}


def every_target(vocab_size: int, length: int) -> list[list[int]]:
    """All sequences that end with EOS, and those of the full length without one."""
    others = [token for token in range(vocab_size) if token != EOS]
    ended = [[*s, EOS] for size in range(length) for s in itertools.product(others, repeat=size)]
    return ended + [list(s) for s in itertools.product(others, repeat=length)]


@torch.no_grad()
def read(model, source: torch.Tensor, targets: list[list[int]]):
    """Log-probabilities (rows, steps, vocabulary) before each token of each target, and the last layer's attention.

    The attention is (rows, heads, steps, source). In one forward pass over rows without padding of the source and
    without a cache; what stands after a shorter target says nothing.
    """
    steps = max(map(len, targets))
    inputs = torch.tensor([[BOS, *target, *[PAD] * (steps - len(target))][:steps] for target in targets])
    sources = source.expand(len(targets), -1)
    outputs = model(sources, decoder_input_ids=inputs, use_cache=False, output_attentions=True)
    attention = outputs.cross_attentions[-1] if outputs.cross_attentions else None
    return outputs.logits.double().log_softmax(-1), attention
