"""Normalisation layers by name."""

from torch import nn

from ..configuration.choices import Choices
from ..configuration.configuration_trine import TrineConfig


def make_rmsnorm(config: TrineConfig, size: int) -> nn.Module:
    return nn.RMSNorm(size, eps=config.norm_eps)


def make_layernorm(config: TrineConfig, size: int) -> nn.Module:
    return nn.LayerNorm(size, eps=config.norm_eps, bias=config.norm_bias)


NORMS = Choices("norm_type", {"rmsnorm": make_rmsnorm, "layernorm": make_layernorm})


def make_norm(config: TrineConfig, size: int) -> nn.Module:
    """Builds the norm that `config.norm_type` names, over the last dimension of `size` features."""
    return NORMS[config.norm_type](config, size)
