"""Normalisation layers by name."""

from torch import nn

from ..configuration.configuration_trine import TrineConfig


NORMS = {"rmsnorm": nn.RMSNorm, "layernorm": nn.LayerNorm}


def make_norm(config: TrineConfig, size: int) -> nn.Module:
    """Builds the norm that `config.norm_type` names, over the last dimension of `size` features."""
    return NORMS[config.norm_type](size, eps=config.norm_eps)
