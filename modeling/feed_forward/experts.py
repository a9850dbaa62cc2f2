"""Mixture of experts: many feed-forwards, of which every token visits a few."""

# Shapes: T tokens, E experts, C experts per token, H hidden size, I width of an expert.

import torch
from torch import nn
from transformers import initialization as init
from transformers.integrations.moe import use_experts_implementation
from transformers.utils import logging

from ...configuration.choices import Choices, in_package
from ...configuration.configuration_trine import TrineConfig
from ..initialization import fill_
from .mlp import make_activation, make_mlp
from .one_token import visit_for_one
from .routers import ROUTERS


logger = logging.get_logger(__name__)

FAST_VISITS = in_package((visit_for_one,))


class StackedExperts(nn.Module):
    """All experts of a layer in two weights, (E, out, in) each, and biases (E, out) if feed-forwards have them.

    `forward` is transformers' `eager` experts interface.

    Transformers swaps `forward` for `batched_mm` or `grouped_mm` as `experts_implementation` says.
    """

    def __init__(self, config: TrineConfig):
        super().__init__()
        self.config = config
        self.num_experts = config.num_experts
        self.down_proj = nn.Parameter(
            torch.empty(config.num_experts, config.hidden_size, config.moe_intermediate_size)
        )
        self.down_proj_bias = self.make_bias(config.hidden_size)
        self.act_fn = make_activation(config)

    def make_bias(self, size: int) -> nn.Parameter | None:
        """The biases (E, size) of a projection, where feed-forwards have biases."""
        return nn.Parameter(torch.empty(self.num_experts, size)) if self.config.mlp_bias else None

    def initialize(self) -> None:
        """Fills the weights, as `config.initializer` says, and zeroes the biases."""
        fill_(self.down_proj, self.config, into_residual=True)
        for name, parameter in self.named_parameters():
            if name.endswith("_bias"):
                init.zeros_(parameter)

    def project(self, states: torch.Tensor, name: str, expert: int) -> torch.Tensor:
        """Applies a projection of one expert to its tokens, (., in) to (., out)."""
        bias = getattr(self, f"{name}_bias")
        return nn.functional.linear(states, getattr(self, name)[expert], None if bias is None else bias[expert])

    def expand(self, hidden_states: torch.Tensor, expert: int) -> torch.Tensor:
        """Maps the tokens (., H) of one expert to its activations (., I)."""
        raise NotImplementedError

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Sums the outputs of the chosen experts.

        Args:
            hidden_states: (T, H).
            top_k_index: (T, C). Indices beyond the experts, which expert parallelism uses for other processes' tokens,
                add nothing.
            top_k_weights: (T, C).
        """
        output = torch.zeros_like(hidden_states)
        for expert in range(self.num_experts):
            tokens, slots = torch.where(top_k_index == expert)
            if hasattr(self.down_proj, "qdata") and not len(tokens):  # torchao does not quantise nothing
                continue
            activations = self.expand(hidden_states[tokens], expert)
            expert_output = self.project(activations, "down_proj", expert)
            output.index_add_(0, tokens, (expert_output * top_k_weights[tokens, slots, None]).to(output.dtype))
        return output


@use_experts_implementation(has_gate=False)
class PlainExperts(StackedExperts):
    """Experts of the form `down(act(up(x)))`."""

    def __init__(self, config: TrineConfig):
        super().__init__(config)
        self.up_proj = nn.Parameter(torch.empty(config.num_experts, config.moe_intermediate_size, config.hidden_size))
        self.up_proj_bias = self.make_bias(config.moe_intermediate_size)

    def initialize(self) -> None:
        super().initialize()
        fill_(self.up_proj, self.config)

    def expand(self, hidden_states: torch.Tensor, expert: int) -> torch.Tensor:
        return self.act_fn(self.project(hidden_states, "up_proj", expert))


@use_experts_implementation(has_gate=True)
class GatedExperts(StackedExperts):
    """Experts of the form `down(act(gate(x)) * up(x))`, gate and up stacked in one weight."""

    def __init__(self, config: TrineConfig):
        super().__init__(config)
        self.gate_up_proj = nn.Parameter(
            torch.empty(config.num_experts, 2 * config.moe_intermediate_size, config.hidden_size)
        )
        self.gate_up_proj_bias = self.make_bias(2 * config.moe_intermediate_size)

    def initialize(self) -> None:
        super().initialize()
        fill_(self.gate_up_proj, self.config, num_stacked=2)

    def expand(self, hidden_states: torch.Tensor, expert: int) -> torch.Tensor:
        gate, up = self.project(hidden_states, "gate_up_proj", expert).chunk(2, dim=-1)
        return self.act_fn(gate) * up


EXPERTS = Choices("gated_mlp", {False: PlainExperts, True: GatedExperts})
GROUPED_MULTIPLE = 8  # the grouped kernel reads rows of whole 16 bytes, which are 8 features in half precision


def grouped_kernel_obstacle(config: TrineConfig, dtype: torch.dtype) -> str | None:
    """The reason why `experts_implementation="grouped_mm"` cannot compute these experts, or None if it can."""
    if "experts" in str(getattr(config, "quantization_config", None)):  # its rules name them
        return "their weights are quantised, which it does not read"
    for field in ("hidden_size", "moe_intermediate_size"):
        if getattr(config, field) % GROUPED_MULTIPLE:
            return f"{field}={getattr(config, field)} is not a multiple of {GROUPED_MULTIPLE}"
    return "it has no float64" if dtype == torch.float64 else None


def choose_kernel(config: TrineConfig, requested: str | None) -> str | None:
    """The `experts_implementation` that was requested, or `eager` where none was and the grouped kernel cannot.

    Raises:
        ValueError: The grouped kernel was requested, but cannot.
    """
    obstacle = grouped_kernel_obstacle(config, torch.get_default_dtype())
    if obstacle and requested == "grouped_mm":
        raise ValueError(f"experts_implementation='grouped_mm' cannot compute these experts: {obstacle}.")
    if obstacle and requested is None:
        logger.warning_once(f"experts_implementation='eager' is used, as 'grouped_mm' cannot be: {obstacle}.")
        return "eager"
    return requested


class SparseMLP(nn.Module):
    """Routes every token to its experts and adds the shared ones, (..., H) to the same shape.

    Cost O(T * C * H * I), whatever the number of experts.
    Source: Shazeer et al. 2017, arXiv 1701.06538; shared experts: Dai et al. 2024, DeepSeekMoE, arXiv 2401.06066.
    """

    def __init__(self, config: TrineConfig):
        super().__init__()
        self.gate = ROUTERS[config.router_type](config)
        self.experts = EXPERTS[config.gated_mlp](config)
        self.experts.has_bias = config.mlp_bias  # transformers' decorator fixes it for a class
        self.shared_experts = None
        if config.num_shared_experts:
            self.shared_experts = make_mlp(config, config.num_shared_experts * config.moe_intermediate_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Maps (..., H) to the same shape."""
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        _, top_k_weights, top_k_index = self.gate(tokens)
        fast = (visit(self.experts, tokens, top_k_index, top_k_weights) for visit in FAST_VISITS)
        output = next((output for output in fast if output is not None), None)
        if output is None:
            output = self.experts(tokens, top_k_index, top_k_weights)
        if self.shared_experts is not None:
            output = output + self.shared_experts(tokens)
        return output.reshape(hidden_states.shape)
