"""Losses of logits and of routers."""

import torch
from support.reference.feed_forward import ROUTERS
from support.reference.weights import Weights


def cross_entropy(logits: torch.Tensor, targets: list[int], ignore_index: int = -100) -> tuple[torch.Tensor, int]:
    """Summed `-log softmax(logits)[target]`, in nats, and the number of targets that count."""
    counted = [(row, target) for row, target in zip(logits, targets, strict=True) if target != ignore_index]
    terms = [torch.log(torch.exp(row - row.max()).sum()) + row.max() - row[target] for row, target in counted]
    return sum(terms, start=torch.zeros((), dtype=torch.float64)), len(counted)


def balancing_loss(config, weights: Weights, router_logits: torch.Tensor) -> torch.Tensor:
    """Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6, for the logits (N, E) of one layer."""
    num_tokens, num_experts = router_logits.shape
    loads, shares = [0.0] * num_experts, [0.0] * num_experts
    for row in router_logits:
        scores, preferences = ROUTERS[config.router_type](config, weights, row)
        ranking = sorted(range(num_experts), key=lambda expert: -preferences[expert].item())
        for expert in ranking[: config.num_experts_per_tok]:
            loads[expert] += 1 / num_tokens
        for expert in range(num_experts):
            shares[expert] = shares[expert] + scores[expert] / scores.sum() / num_tokens
    return num_experts * sum(load * share for load, share in zip(loads, shares, strict=True))


def z_loss(router_logits: torch.Tensor) -> torch.Tensor:
    """Zoph et al. 2022, arXiv 2202.08906, equation 5, for the logits (N, E) of one layer."""
    return sum(torch.log(torch.exp(row).sum()) ** 2 for row in router_logits) / len(router_logits)
