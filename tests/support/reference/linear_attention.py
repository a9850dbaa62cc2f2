"""Attention by features of queries and keys: linear attention and Performer."""

import torch
from support.reference.projections import heads_of
from support.reference.visibility import sees_full
from support.reference.weights import Weights, linear, softmax


def elu_features(x: torch.Tensor) -> list[torch.Tensor]:
    """Katharopoulos et al. 2020, arXiv 2006.16236, equation 7."""
    return [x_i + 1 if x_i > 0 else torch.exp(x_i) for x_i in x]


def relu_features(x: torch.Tensor) -> list[torch.Tensor]:
    """Kasai et al. 2021, arXiv 2103.13076, without the learned projection."""
    return [x_i * (x_i > 0) for x_i in x]


def softmax_features(x: torch.Tensor) -> list[torch.Tensor]:
    """Zhang et al. 2024, Hedgehog, arXiv 2402.04347, without the learned projection."""
    return [*softmax(x), *softmax(-x)]


def dpfp_features(x: torch.Tensor) -> list[torch.Tensor]:
    """Schlag et al. 2021, arXiv 2102.11174, equation 37 with nu = 1: each neighbour in a ring of 2d numbers."""
    ring = relu_features(x) + relu_features(-x)
    return [ring[i] * ring[(i + 1) % len(ring)] for i in range(len(ring))]


FEATURE_MAPS = {"elu": elu_features, "relu": relu_features, "softmax": softmax_features, "dpfp": dpfp_features}


def feature_attention(config, weights: Weights, x: torch.Tensor, features) -> torch.Tensor:
    """Each query's sum of values, weighted by products of features, over a sum of such weights.

    `features(vector, position)` are those of a query or key above the line, and those below it. A query without
    anything to divide by gets 0.
    """
    queries, keys, values = (heads_of(config, x, weights, name) for name in "qkv")
    queries, keys = ([[features(row, i) for i, row in enumerate(head)] for head in heads] for heads in (queries, keys))
    outputs = []
    for h, query_head in enumerate(queries):
        g = h * config.num_key_value_heads // config.num_attention_heads
        rows = []
        for i, (query, norm_query) in enumerate(query_head):
            above, below = torch.zeros(config.head_dim, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
            for j, (key, norm_key) in enumerate(keys[g]):
                if sees_full(config, i, j):
                    above, below = above + (query @ key) * values[g][j], below + norm_query @ norm_key
            rows.append(above / below if below > 0 else above * 0)
        outputs.append(torch.stack(rows))
    return linear(torch.cat(outputs, dim=1), weights["o_proj"])


def linear_attention(config, weights: Weights, x: torch.Tensor, positions) -> torch.Tensor:
    """Katharopoulos et al. 2020, arXiv 2006.16236, equation 5, with the rotations of Su et al. 2021, equation 19."""

    def features(vector, position):
        mapped = torch.stack(FEATURE_MAPS[config.linear_feature_map](vector))
        turned = [positions.rotate(part, position) for part in mapped.split(config.head_dim)]
        return torch.cat(turned), mapped

    return feature_attention(config, weights, x, features)


def performer_attention(config, weights: Weights, x: torch.Tensor, positions) -> torch.Tensor:
    """Choromanski et al. 2020, arXiv 2009.14794, equation 5 (positive features), of x = q / d^(1/4)."""

    def features(vector, position):
        vector = positions.rotate(vector, position) / config.head_dim**0.25
        powers = torch.stack([torch.exp(w @ vector - vector @ vector / 2) for w in weights["projection"]])
        return powers, powers

    return feature_attention(config, weights, x, features)
