"""Initialisation: every module with weights of its own fills them in a method `initialize`, through `fill_`."""

import math

import torch
from transformers import initialization as init

from ..configuration.choices import Choices
from ..configuration.configuration_trine import TrineConfig


def normal_std(config: TrineConfig, fan_in: int, fan_out: int) -> float:
    """A fixed standard deviation (Radford et al. 2019, GPT-2)."""
    return config.initializer_range


def xavier_std(config: TrineConfig, fan_in: int, fan_out: int) -> float:
    """Keeps the variance in both directions on average (Glorot and Bengio 2010)."""
    return math.sqrt(2.0 / (fan_in + fan_out))


def kaiming_std(config: TrineConfig, fan_in: int, fan_out: int) -> float:
    """Keeps the variance of the forward pass through rectifiers (He et al. 2015, arXiv 1502.01852)."""
    return math.sqrt(2.0 / fan_in)


STANDARD_DEVIATIONS = Choices("initializer", {"normal": normal_std, "xavier": xavier_std, "kaiming": kaiming_std})


def fill_(weight: torch.Tensor, config: TrineConfig, *, into_residual: bool = False, num_stacked: int = 1) -> None:
    """Fills a projection in place with zero-mean normal values.

    Args:
        weight: Shape (..., out features, in features); leading dimensions count experts.
        config: Names the initializer.
        into_residual: Whether the projection writes into the residual stream. Its values are then divided by
            the square root of the number of sub-layers, so that their sum has the variance of one (GPT-2).
        num_stacked: Number of projections that are stacked along the out features.
    """
    std = STANDARD_DEVIATIONS[config.initializer](config, weight.shape[-1], weight.shape[-2] // num_stacked)
    if into_residual:
        std /= math.sqrt((3 if config.add_cross_attention else 2) * config.num_hidden_layers)
    init.normal_(weight, mean=0.0, std=std)
