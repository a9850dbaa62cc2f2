"""Performer attention: random features whose products estimate those of softmax attention."""

# Shapes: B batch, H heads, G key-value heads, Q queries, F features, D head size.

import torch
from torch import nn
from transformers import initialization as init

from ...configuration.configuration_trine import TrineConfig
from ..positions.rope import apply_rotation
from .kernelized import Features, KernelizedAttention, map_both


def draw_directions(num_features: int, head_dim: int, seed: int) -> torch.Tensor:
    """Random directions (F, D) in float32: `head_dim` at a time are orthogonal, and each is as long as a Gaussian one.

    Each row by itself is distributed like a vector of standard normal numbers, so that estimates have no bias.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    blocks = -(-num_features // head_dim)
    options = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
    bases, triangles = torch.linalg.qr(torch.randn(blocks, head_dim, head_dim, **options))
    # With these signs, which a factorisation leaves open, all orthogonal bases are equally likely (Mezzadri 2007).
    bases = bases * triangles.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    lengths = torch.randn(num_features, head_dim, **options).norm(dim=1, keepdim=True)
    return (bases.transpose(1, 2).flatten(0, 1)[:num_features] * lengths).float()


class PerformerAttention(KernelizedAttention):
    """Softmax attention, estimated: `exp(<q, k> / sqrt(D))` is the mean of products of `performer_num_features`
    positive random features, `exp(<w, x> - |x|^2 / 2)` of `x = q / D^(1/4)` or `k / D^(1/4)`.

    The directions w are the same for all heads of the layer. They are a buffer, `projection`, and no parameter: `draw`
    holds the seed and the number of the draw that made it. Training draws new ones from time to time, so that a model
    learns for all of them: `RandomFeatureCallback` of `trine.training.run.callbacks` calls `redraw` every
    `config.performer_redraw_interval` optimizer steps. A training loop of your own does so between two steps:

        for module in model.modules():
            if isinstance(module, PerformerAttention):
                module.redraw()

    Rotary positions turn queries and keys, as in softmax attention; what weights estimate depends on differences of
    positions, the estimate itself does not. Its error falls with the root of the number of features, and grows fast
    with the length of queries and keys.

    Cost O(Q * F * D). Cache: F * (D + 1) + 1 numbers a key-value head.
    Source: Choromanski et al. 2020, arXiv 2009.14794, section 2 (FAVOR+), equation 5 and the orthogonal features of
    section 2.4.
    """

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        shape = config.performer_num_features, self.head_dim
        self.projection = nn.Buffer(torch.zeros(shape, dtype=torch.float32))
        self.draw = nn.Buffer(torch.zeros(2, dtype=torch.int64))  # the seed, and how often features were drawn anew

    def initialize(self) -> None:
        super().initialize()
        seed = int(torch.randint(2**31, (), device="cpu"))  # of PyTorch's global generator, so each layer has its own
        init.copy_(self.draw, torch.tensor([seed, 0]))
        num_features, head_dim = self.projection.shape
        init.copy_(self.projection, draw_directions(num_features, head_dim, seed).to(self.projection))

    @torch.no_grad()
    def redraw(self) -> None:
        """Draws new features, which follow from the seed and the number of the draw, so that a resumed run agrees."""
        self.draw[1] += 1
        seed, number = self.draw.tolist()
        num_features, head_dim = self.projection.shape
        self.projection.copy_(draw_directions(num_features, head_dim, seed + number))

    def features(self, query, key, position_embeddings) -> Features:
        def scaled(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if position_embeddings is not None:
                states = apply_rotation(states, *position_embeddings).to(states.dtype)
            logs = self.log_features(states)
            scale = (logs.detach() if logs.requires_grad else logs).amax(dim=-1, keepdim=True)  # it needs no gradient
            return (logs - scale).exp(), scale[..., 0]

        # A query's own scale cancels; that of a key does not, so it goes along.
        (query, _), (key, scale) = map_both(scaled, query, key)
        return Features(query, key, log_scale=scale)

    def log_features(self, states: torch.Tensor) -> torch.Tensor:
        """Logarithms of the features (B, H, Q, F) of queries or keys (B, H, Q, D), but for a constant."""
        scale, rows = self.head_dim**-0.25, states.flatten(0, 2)
        lengths = rows.square().sum(dim=-1, keepdim=True)
        directions = self.projection.to(states.dtype).t()
        # scale * <w, x> - |scale * x|^2 / 2
        logs = torch.addmm(lengths, rows, directions, beta=-(scale**2) / 2, alpha=scale)
        return logs.view(*states.shape[:3], -1)
