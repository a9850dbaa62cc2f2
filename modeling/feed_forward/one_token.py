"""The experts of one token, one after the other: a step of decoding need not sort tokens by expert."""

# Shapes: C experts per token, H hidden size.

from typing import Any

import torch
from torch import nn


def visit_for_one(
    experts: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor | None:
    """The output (1, H) of the experts of one token on a CPU, or None where they are called as a module.

    They are where hooks, adapters or gradients may ask for it (see `lean.py`), and where other kernels were chosen.

    Args:
        experts: A `StackedExperts`, or its twin.
        hidden_states: (1, H).
        top_k_index: (1, C).
        top_k_weights: (1, C).
    """
    if hidden_states.shape[0] != 1 or not hidden_states.is_cpu or "twin_of" not in vars(experts):
        return None
    is_chosen = experts.config._experts_implementation in ("eager", "grouped_mm")
    if not is_chosen or type(experts.down_proj) is not nn.Parameter:
        return None
    outputs = []
    for expert in top_k_index[0].tolist():
        if expert >= experts.num_experts:  # of another process
            return None
        outputs.append(experts.project(experts.expand(hidden_states, expert), "down_proj", expert))
    return torch.sum(torch.cat(outputs) * top_k_weights.T, dim=0, keepdim=True)
