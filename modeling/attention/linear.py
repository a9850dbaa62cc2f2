"""Linear attention: weights are products of positive features of queries and keys."""

# Shapes: B batch, H heads, Q queries, F features, D head size.

import torch
from torch import nn

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig
from ..positions.rope import apply_rotation
from .kernelized import Features, KernelizedAttention, map_both


def elu_features(states: torch.Tensor) -> torch.Tensor:
    """`elu(x) + 1` of (..., D), which is positive: Katharopoulos et al. 2020, arXiv 2006.16236, equation 7."""
    return nn.functional.elu(states) + 1


def relu_features(states: torch.Tensor) -> torch.Tensor:
    """`max(x, 0)` of (..., D): Kasai et al. 2021, arXiv 2103.13076, equation 2, without its learned projection."""
    return nn.functional.relu(states)


def softmax_features(states: torch.Tensor) -> torch.Tensor:
    """The softmax of x and that of -x, (..., D) to (..., 2 D): Zhang et al. 2024, arXiv 2402.04347, unprojected."""
    return torch.cat([states.softmax(dim=-1), (-states).softmax(dim=-1)], dim=-1)


def dpfp_features(states: torch.Tensor) -> torch.Tensor:
    """Products of neighbours in a ring of `max(x, 0)` and `max(-x, 0)`: Schlag et al. 2021, arXiv 2102.11174,
    equation 37, with nu = 1."""
    parts = nn.functional.relu(torch.cat([states, -states], dim=-1))
    return parts * parts.roll(-1, dims=-1)


# Maps (..., D) to features (..., F), none of them negative.
FEATURE_MAPS = Choices(
    "linear_feature_map",
    {
        "elu": elu_features,
        "relu": relu_features,
        "softmax": softmax_features,
        "dpfp": dpfp_features,
    },
)


class LinearAttention(KernelizedAttention):
    """Weights `<map(q_i), map(k_j)>` over their sum, with one of the maps in `FEATURE_MAPS`. Scores have no scale.

    Rotary positions turn the features, each head-sized part of them likewise, in the numerator only, so that weights
    depend on differences of positions, and the denominator stays positive. Weights may then be negative, and do not
    sum to 1.

    Cost O(Q * F * D). Cache: F * (D + 1) numbers a key-value head.
    Source: Katharopoulos et al. 2020, arXiv 2006.16236; with rotary positions: Su et al. 2021, arXiv 2104.09864,
    equation 19.
    """

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.feature_map = FEATURE_MAPS[config.linear_feature_map]

    def features(self, query, key, position_embeddings) -> Features:
        if position_embeddings is None:
            (query,), (key,) = map_both(lambda states: (self.feature_map(states),), query, key)
            return Features(query, key)

        def turn(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.feature_map(states)
            return self.rotate(features, *position_embeddings), features

        (query, norm_query), (key, norm_key) = map_both(turn, query, key)
        return Features(query, key, norm_query, norm_key)

    def rotate(self, features: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Turns each head-sized part of features (B, H, Q, F); `cos` and `sin` are (B or 1, 1, Q, rotated size)."""
        if features.shape[-1] == self.head_dim:
            return apply_rotation(features, cos.to(features.dtype), sin.to(features.dtype))
        parts = features.unflatten(-1, (-1, self.head_dim))
        cos, sin = cos[..., None, :].to(features.dtype), sin[..., None, :].to(features.dtype)
        return apply_rotation(parts, cos, sin).flatten(-2)
