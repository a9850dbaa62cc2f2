"""Fixed sine and cosine waves added to the embeddings."""

import math

import torch

from .base import PositionEncoding


class SinusoidalEncoding(PositionEncoding):
    """Feature 2i of position p is `sin(p / 10000^(2i/d))`, feature 2i + 1 the cosine. It reaches any length.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5.
    """

    def add_to(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        size = inputs_embeds.shape[-1]
        dtype = torch.promote_types(inputs_embeds.dtype, torch.float32)
        even = torch.arange(0, size, 2, device=inputs_embeds.device, dtype=dtype)
        angles = position_ids[..., None].to(dtype) * torch.exp(even * (-math.log(10000.0) / size))
        waves = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
        return inputs_embeds + waves.to(inputs_embeds.dtype)
