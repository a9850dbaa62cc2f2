"""Patterns of BigBird attention and a layer for each."""

import pytest
import torch
from support.tiny import tiny_config

from trine.modeling.attention.bigbird import BigBirdAttention


CAUSAL = pytest.mark.parametrize("is_causal", [True, False], ids=["decoder", "encoder"])
# Global, window and random blocks.
PATTERNS = [(2, 3, 1), (0, 3, 2), (2, 1, 0), (0, 1, 0), (1, 1, 2), (3, 5, 3)]
EVERY_PATTERN = pytest.mark.parametrize("numbers", PATTERNS, ids=str)
SIZE = 4
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def blocks_of(numbers: tuple[int, int, int]) -> dict[str, int]:
    names = ("global", "window", "random")
    return {f"bigbird_num_{name}_blocks": number for name, number in zip(names, numbers, strict=True)}


def fields_of(numbers: tuple[int, int, int], is_causal: bool) -> dict:
    return {"attention_types": "bigbird", "position_type": "none", "is_causal": is_causal, **blocks_of(numbers)}


def layer_of(numbers=(2, 3, 1), is_causal=True, seed=0, **fields) -> BigBirdAttention:
    """A layer in float64 with weights that make attention sharp."""
    config = tiny_config(**fields_of(numbers, is_causal), **fields)
    torch.manual_seed(seed)
    layer = BigBirdAttention(config, 0).double()
    layer.initialize()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
    return layer
