"""The dense feed-forward, plain or gated."""

import torch
from torch import nn
from transformers.activations import ACT2FN

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig
from ...configuration.patterns import check_choice
from ..initialization import fill_


ONE_OPERATOR = {"gelu_new": "gelu_pytorch_tanh", "gelu_fast": "gelu_pytorch_tanh"}  # the same function, faster


def make_activation(config: TrineConfig) -> nn.Module:
    """Builds the activation that `config.hidden_act` names; raises a `ValueError` that lists them if there is none."""
    check_choice("hidden_act", config.hidden_act, ACT2FN)
    name = ONE_OPERATOR.get(config.hidden_act, config.hidden_act)
    return ACT2FN[name].to(torch.get_default_dtype())  # xielu makes its parameters in half precision


class PlainMLP(nn.Module):
    """`down(act(up(x)))` on every token by itself, (..., hidden) to the same shape.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.3.
    """

    def __init__(self, config: TrineConfig, intermediate_size: int):
        super().__init__()
        self.config = config
        self.up_proj = nn.Linear(config.hidden_size, intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = make_activation(config)

    def initialize(self) -> None:
        """Fills the projections, as `config.initializer` says."""
        fill_(self.up_proj.weight, self.config)
        fill_(self.down_proj.weight, self.config, into_residual=True)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Maps (..., hidden) to the same shape."""
        return self.down_proj(self.act_fn(self.up_proj(hidden_states)))


class GatedMLP(PlainMLP):
    """`down(act(gate(x)) * up(x))`: with `silu` SwiGLU, with `gelu` GeGLU.

    Source: Shazeer 2020, GLU variants improve Transformer, arXiv 2002.05202.
    """

    def __init__(self, config: TrineConfig, intermediate_size: int):
        super().__init__(config, intermediate_size)
        self.gate_proj = nn.Linear(config.hidden_size, intermediate_size, bias=config.mlp_bias)

    def initialize(self) -> None:
        super().initialize()
        fill_(self.gate_proj.weight, self.config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


MLPS = Choices("gated_mlp", {False: PlainMLP, True: GatedMLP})


def make_mlp(config: TrineConfig, intermediate_size: int | None = None) -> nn.Module:
    """Builds the feed-forward that `config.gated_mlp` chooses. Default width: `config.intermediate_size`."""
    return MLPS[config.gated_mlp](config, intermediate_size or config.intermediate_size)
