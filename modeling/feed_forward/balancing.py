"""Losses that keep the experts evenly loaded and the router's logits small."""

# Shapes: T tokens, E experts, L sparse layers.

from collections.abc import Sequence

import torch

from ...configuration.choices import Choices
from .routers import TrineRouter


def flatten_mask(attention_mask: torch.Tensor | None, router_logits: torch.Tensor) -> torch.Tensor:
    """Returns one weight per row of `router_logits`, (T,): 1 for a token, 0 for padding."""
    if attention_mask is None:
        return router_logits.new_ones(router_logits.shape[0], dtype=torch.float32)
    num_tokens = router_logits.shape[0]
    if attention_mask.ndim != 2 or attention_mask.shape[0] == 0 or num_tokens % attention_mask.shape[0]:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; router losses need (batch, length), "
            f"to tell padding among the {num_tokens} tokens."
        )
    length = num_tokens // attention_mask.shape[0]
    return attention_mask[:, -length:].reshape(-1).to(router_logits.device, torch.float32)


def expert_use(
    router: TrineRouter, router_logits: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The use of each expert by a layer's tokens: mean choices and mean normalised score per token, (E,) each.

    Args:
        router: The router that made the logits, which knows how they become choices.
        router_logits: (T, E).
        mask: (T,), 1 for a token, 0 for padding, which counts in neither mean.
    """
    scores = router.scores(router_logits)
    chosen = torch.zeros_like(scores).scatter_(-1, router.choose(scores), 1.0)
    share = scores / scores.sum(dim=-1, keepdim=True)
    weights = (mask / mask.sum().clamp(min=1)).to(scores.dtype)[:, None]
    return (weights * chosen).sum(dim=0), (weights * share).sum(dim=0)


def mean_balancing_loss(load: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """The mean over layers of `E * sum_e load_e share_e`, for (L, E) each: every layer should be even by itself.

    Source: Fedus et al. 2021, Switch Transformers, arXiv 2101.03961, equations 4 to 6.
    """
    # Sums, not matrix products: autocast would take those in half precision, which a large loss scale overflows.
    return load.shape[-1] * (load * share).sum(dim=-1).mean()


def pooled_balancing_loss(load: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """`E * sum_e load_e share_e` of means over layers, for (L, E) each: a layer's load may make up for another's.

    As in transformers' Mixtral, Qwen3-MoE, GPT-OSS and others.
    """
    return load.shape[-1] * torch.sum(load.mean(dim=0) * share.mean(dim=0))


# Both are smallest, `num_experts_per_tok`, when the load is even.
BALANCING_LOSSES = Choices("router_aux_loss_reduction", {"mean": mean_balancing_loss, "pooled": pooled_balancing_loss})


def router_z_loss(router_logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over tokens of the squared log-sum-exp of logits (T, E), which keeps them in a range that is exact in bf16.

    The `mask` (T,) is 1 for a token and 0 for padding, which does not count.
    Source: Zoph et al. 2022, ST-MoE, arXiv 2202.08906, equation 5.
    """
    logits = router_logits.to(torch.promote_types(router_logits.dtype, torch.float32))
    return torch.sum(torch.logsumexp(logits, dim=-1).square() * mask) / mask.sum().clamp(min=1)


def router_losses(
    routers: Sequence[TrineRouter],
    router_logits: Sequence[torch.Tensor],
    attention_mask: torch.Tensor | None,
    reduction: str = "mean",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The load-balancing loss of the sparse layers, and the mean of their z-losses.

    Args:
        routers: The router of each sparse layer.
        router_logits: Its logits, (T, E).
        attention_mask: (batch, length), 1 for a token, 0 for padding; or None if there is no padding.
        reduction: How layers make one load-balancing loss, a name in `BALANCING_LOSSES`.
    """
    device = router_logits[0].device
    mask = flatten_mask(attention_mask, router_logits[0])
    use = [
        torch.stack(expert_use(router, logits, mask.to(logits.device))).to(device)
        for router, logits in zip(routers, router_logits, strict=True)
    ]
    load, share = torch.stack(use, dim=1)
    z = [router_z_loss(logits, mask.to(logits.device)).to(device) for logits in router_logits]
    return BALANCING_LOSSES[reduction](load, share), torch.stack(z).mean()
