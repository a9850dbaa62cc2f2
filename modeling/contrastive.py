"""Losses that tell the pairs of a batch from all other combinations of its texts and images."""

# Shapes: B pairs.

import torch
from torch import nn


def softmax_loss(logits: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy in nats of each text among the texts and each image among the images, of logits (B, B).

    Source: Radford et al. 2021, CLIP, arXiv 2103.00020, figure 3.
    """
    targets = torch.arange(len(logits), device=logits.device)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (nn.functional.cross_entropy(logits, targets) + nn.functional.cross_entropy(logits.T, targets)) / 2


def sigmoid_loss(logits: torch.Tensor) -> torch.Tensor:
    """The binary cross-entropies in nats of all pairs, (B, B), summed over the images and averaged over the texts.

    Source: Zhai et al. 2023, SigLIP, arXiv 2303.15343, algorithm 1.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    signs = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1
    return -nn.functional.logsigmoid(signs * logits).sum(dim=-1).mean()
