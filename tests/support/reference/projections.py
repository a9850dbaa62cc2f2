"""What attention kinds share: the heads of a projection, and the scale of scores."""

import math

import torch
from support.reference.norms import NORMS
from support.reference.weights import Weights, linear


def heads_of(config, x: torch.Tensor, weights: Weights, name: str) -> list[torch.Tensor]:
    """Projects `x` (N, hidden) and returns one (N, D) matrix a head, normalised if `qk_norm` says so."""
    heads = list(linear(x, weights[f"{name}_proj"]).split(config.head_dim, dim=1))
    if config.qk_norm and name != "v":
        heads = [NORMS[config.norm_type](head, weights[f"{name}_norm"], config.norm_eps) for head in heads]
    return heads


def scale_of(config) -> float:
    """The factor on the scores: Vaswani et al. 2017, equation 1, unless the config has one."""
    return 1 / math.sqrt(config.head_dim) if config.attention_scale is None else config.attention_scale
