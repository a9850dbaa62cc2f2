"""Normalisation layers by name."""

import torch
from torch import nn

from ..configuration.choices import Choices
from ..configuration.configuration_trine import TrineConfig


class RMSNorm(nn.RMSNorm):
    """PyTorch's norm, also for states of half precision beside weights of float32, which autocast makes.

    The weight is rounded to the states' type, as autocast does with those of projections: PyTorch has its fused kernel
    for one type only, and warns without it.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        # Not `normalized_shape`: compiled code would compare that tuple at each call, and all modules one by one.
        return nn.functional.rms_norm(x, weight.shape, weight.to(x.dtype), self.eps)


NORMS = Choices(
    "norm_type",
    {
        "rmsnorm": lambda config, size: RMSNorm(size, eps=config.norm_eps),
        "layernorm": lambda config, size: nn.LayerNorm(size, eps=config.norm_eps, bias=config.norm_bias),
    },
)


def make_norm(config: TrineConfig, size: int) -> nn.Module:
    """Builds the norm that `config.norm_type` names, over the last dimension of `size` features."""
    return NORMS[config.norm_type](config, size)
