"""Norms of rows."""

import torch
from support.reference.weights import Weights


def rmsnorm(x: torch.Tensor, weights: Weights, eps: float) -> torch.Tensor:
    """Zhang and Sennrich 2019, arXiv 1910.07467, equation 4."""
    return torch.stack([row / torch.sqrt((row * row).mean() + eps) for row in x]) * weights["weight"]


def layernorm(x: torch.Tensor, weights: Weights, eps: float) -> torch.Tensor:
    """Ba et al. 2016, arXiv 1607.06450, equation 4."""
    rows = []
    for row in x:
        centred = row - row.mean()
        rows.append(centred / torch.sqrt((centred * centred).mean() + eps))
    y = torch.stack(rows) * weights["weight"]
    return y + weights["bias"] if "bias" in weights else y


NORMS = {"rmsnorm": rmsnorm, "layernorm": layernorm}
