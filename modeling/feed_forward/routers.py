"""Routers: which experts a token visits, and with what weights."""

# Shapes: T tokens, E experts, C experts per token.

import torch
from torch import nn
from transformers import initialization as init

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig


class TrineRouter(nn.Module):
    """Chooses the `num_experts_per_tok` experts of highest score. Subclasses define logits, scores and preferences.

    With `num_experts_per_tok == num_experts` every expert is visited: dense soft gating.
    """

    def __init__(self, config: TrineConfig):
        super().__init__()
        self.config = config
        self.top_k = config.num_experts_per_tok
        self.num_experts = config.num_experts
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))

    def initialize(self) -> None:
        """Fills the weight with normal values of `initializer_range`."""
        init.normal_(self.weight, mean=0.0, std=self.config.initializer_range)

    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Maps tokens (T, hidden) to logits (T, E), which the balancing losses read."""
        return nn.functional.linear(hidden_states, self.weight)

    def scores(self, router_logits: torch.Tensor) -> torch.Tensor:
        """Maps logits (T, E) to affinities (T, E) in float32 or better."""
        raise NotImplementedError

    def preferences(self, scores: torch.Tensor) -> torch.Tensor:
        """The values (T, E) that the choice is made by; the weights are always made from `scores`."""
        return scores

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """Returns the indices (T, C) of the chosen experts, best first."""
        return torch.topk(self.preferences(scores), self.top_k, dim=-1).indices

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Routes tokens (T, hidden). Returns logits (T, E), weights (T, C) and expert indices (T, C)."""
        router_logits = self.logits(hidden_states)
        scores = self.scores(router_logits)
        top_k_index = self.choose(scores)
        top_k_weights = scores.gather(-1, top_k_index)
        if self.config.norm_topk_prob:
            top_k_weights = top_k_weights / (top_k_weights.sum(dim=-1, keepdim=True) + 1e-20)
        top_k_weights = top_k_weights * self.config.routed_scaling_factor
        return router_logits, top_k_weights.to(hidden_states.dtype), top_k_index


class SoftmaxRouter(TrineRouter):
    """Scores are a softmax over the experts.

    Source: Shazeer et al. 2017, arXiv 1701.06538; as in Jiang et al. 2024, Mixtral, arXiv 2401.04088.
    """

    def scores(self, router_logits: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(router_logits.dtype, torch.float32)
        return torch.softmax(router_logits, dim=-1, dtype=dtype)


class SigmoidRouter(TrineRouter):
    """Scores are independent sigmoids; a bias that no gradient reaches shifts the choice, not the weights.

    Between optimizer steps the bias falls for overloaded experts and rises for idle ones
    (`trine.training.run.callbacks.ExpertLoadCallback`), which balances the load without a loss.
    Source: DeepSeek-AI 2024, DeepSeek-V3, arXiv 2412.19437, section 2.1.2.
    """

    def __init__(self, config: TrineConfig):
        super().__init__(config)
        self.e_score_correction_bias = nn.Buffer(torch.zeros(config.num_experts, dtype=torch.float32))

    def initialize(self) -> None:
        super().initialize()
        init.zeros_(self.e_score_correction_bias)

    def scores(self, router_logits: torch.Tensor) -> torch.Tensor:
        return router_logits.to(torch.promote_types(router_logits.dtype, torch.float32)).sigmoid()

    def preferences(self, scores: torch.Tensor) -> torch.Tensor:
        return scores + self.e_score_correction_bias


ROUTERS = Choices("router_type", {"softmax": SoftmaxRouter, "sigmoid": SigmoidRouter})
