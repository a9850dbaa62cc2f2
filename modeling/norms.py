"""Normalisation layers by name."""

from torch import nn

from ..configuration.choices import Choices
from ..configuration.configuration_trine import TrineConfig


NORMS = Choices(
    "norm_type",
    {
        "rmsnorm": lambda config, size: nn.RMSNorm(size, eps=config.norm_eps),
        "layernorm": lambda config, size: nn.LayerNorm(size, eps=config.norm_eps, bias=config.norm_bias),
    },
)


def make_norm(config: TrineConfig, size: int) -> nn.Module:
    """Builds the norm that `config.norm_type` names, over the last dimension of `size` features."""
    return NORMS[config.norm_type](config, size)
