"""What hidden states pass before a head reads them."""

import torch
from torch import nn

from ...configuration.configuration_trine import TrineConfig
from ..feed_forward.mlp import make_activation
from ..norms import make_norm


class HeadTransform(nn.Module):
    """`norm(act(W x + b))` on every state by itself, (..., hidden) to the same shape.

    Source: Devlin et al. 2018, BERT, arXiv 1810.04805, as released; for classifiers Warner et al. 2024, ModernBERT,
    arXiv 2412.13663, likewise.
    """

    def __init__(self, config: TrineConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = make_activation(config)
        self.norm = make_norm(config, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.act_fn(self.dense(hidden_states)))


def make_transform(config: TrineConfig) -> nn.Module:
    """The transform of a classifier, where `config.classifier_transform` asks for one."""
    return HeadTransform(config) if config.classifier_transform else nn.Identity()
