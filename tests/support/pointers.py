"""Small pointer-generators with sources in which tokens come back."""

import torch
from support.tiny import SIZES, SPARSE, random_ids
from support.translators import pad_rows

from trine import TrineForConditionalGeneration, TrineSeq2SeqConfig


TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL = {**SIZES, "vocab_size": 23}
# Fields of the encoder, of the decoder, and of both at once.
MODELS = {
    "rope": ({}, {}, {}),
    "t5": (
        {"position_type": "relative"},
        {"position_type": "relative"},
        {"tie_word_embeddings": False, "logit_scale": 0.2},
    ),
    "two widths": ({"attention_types": "sliding"}, {"hidden_size": 48}, {"share_embeddings": False}),
    "states": ({"attention_types": "linear"}, {"attention_types": "linear, sliding"}, {}),
    "sparse": ({}, SPARSE, {}),
    "post": ({"norm_position": "post"}, {"norm_position": "post"}, {}),
}
TOLERANCES = {"rtol": 1e-6, "atol": 1e-6, "check_dtype": False}  # rotary angles are float32


def pointer_model(name="rope", dtype=torch.float64, scale=2.0, **fields) -> TrineForConditionalGeneration:
    """Every parameter is random and large, so that errors show."""
    encoder, decoder, shared = MODELS[name]
    torch.manual_seed(0)
    config = TrineSeq2SeqConfig(
        encoder={**SMALL, **encoder},
        decoder={**SMALL, **TOKENS, **decoder},
        experts_implementation="eager",
        **{"pointer_size": 12, **shared, **fields},
    )
    model = TrineForConditionalGeneration(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale).add_(torch.randn_like(parameter), alpha=0.1)
    return model


def sources(side="right") -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Sources of three lengths, in which tokens come back, and the padded batch of them."""
    rows = [random_ids(length, seed=length, vocab_size=9) for length in (11, 4, 7)]
    assert all(len(row.unique()) < len(row) for row in rows[:1])
    return rows, pad_rows(rows, side)


def oracle_tensors(model) -> dict[str, torch.Tensor]:
    """Copies that collect gradients, under all the names that a tied tensor has."""
    copies = {id(p): p.detach().double().requires_grad_() for p in model.parameters()}
    tensors = {name: copies[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    return tensors | dict(model.named_buffers())


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
