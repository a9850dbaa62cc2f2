"""2-simplicial attention, a pair of keys at a time."""

import math

import torch
from support.reference.norms import rmsnorm
from support.reference.projections import heads_of
from support.reference.visibility import sees_second, sees_simplicial
from support.reference.weights import Weights, linear, softmax


def hadamard(q: torch.Tensor, k: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Roy et al. 2025, arXiv 2507.02754, equation 5, over the square root of the number of terms."""
    return (q * k * second).sum() / math.sqrt(len(q))


def complex_product(q: torch.Tensor, k: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Features i and i + d/2 are one number: the real part of the sum of q times the conjugates of both keys."""
    q, k, second = (torch.complex(*vector.chunk(2)) for vector in (q, k, second))
    return (q * k.conj() * second.conj()).sum().real / math.sqrt(4 * len(q))


def determinant(q: torch.Tensor, k: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Equation 9: features i, i + d/3 and i + 2d/3 are one point, and the volumes q, k, k' span are summed."""
    points = torch.stack([vector.view(3, -1) for vector in (q, k, second)])  # (vector, axis, point)
    return torch.linalg.det(points.permute(2, 0, 1)).sum() / math.sqrt(2 * len(q))


FORMS = {"hadamard": hadamard, "complex": complex_product, "determinant": determinant}


def simplicial_attention(config, weights: Weights, x: torch.Tensor, positions) -> torch.Tensor:
    """Roy et al. 2025, arXiv 2507.02754, equations 5 to 7, a pair at a time, with a bias for each offset."""
    queries, keys, values = (heads_of(config, x, weights, name) for name in "qkv")
    seconds = list(linear(x, weights["second_k_proj"]).split(config.head_dim, dim=1))
    if config.qk_norm:
        seconds = [rmsnorm(head, weights["second_k_norm"], config.norm_eps) for head in seconds]
    second_values = list(linear(x, weights["second_v_proj"]).split(config.head_dim, dim=1))
    turn = lambda head: torch.stack([positions.rotate(row, p) for p, row in enumerate(head)])  # noqa: E731
    queries, keys = [turn(head) for head in queries], [turn(head) for head in keys]
    if config.simplicial_form == "determinant":
        seconds = [turn(head) for head in seconds]
    reach = config.simplicial_second_window - 1 if config.is_causal else config.simplicial_second_window // 2
    form, outputs = FORMS[config.simplicial_form], []
    for h, query_head in enumerate(queries):
        g = h * config.num_key_value_heads // config.num_attention_heads
        rows = []
        for i, query in enumerate(query_head):
            pairs = [
                (j, k)
                for j in range(len(x))
                for k in range(len(x))
                if sees_simplicial(config, i, j) and sees_second(config, i, k)
            ]
            scores = [form(query, keys[g][j], seconds[g][k]) for j, k in pairs]
            if config.simplicial_offset_bias:
                scores = [
                    s + weights["offset_bias"][h, k - i + reach] for s, (_, k) in zip(scores, pairs, strict=True)
                ]
            products = torch.stack([values[g][j] * second_values[g][k] for j, k in pairs])
            rows.append(softmax(torch.stack(scores)) @ products)
        outputs.append(torch.stack(rows))
    return linear(torch.cat(outputs, dim=1), weights["o_proj"])
