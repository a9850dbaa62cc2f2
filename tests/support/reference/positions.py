"""Positions: each may add to the embeddings, rotate a head's vector, or bias a score."""

import cmath
import math

import torch
from support.reference.weights import Weights


class NoPositions:
    def __init__(self, config, weights: Weights):
        self.config, self.weights = config, weights

    def add(self, vector: torch.Tensor, position: int) -> torch.Tensor:
        return vector

    def rotate(self, vector: torch.Tensor, position: int) -> torch.Tensor:
        return vector

    def biases(self, head: int, query: int, keys: list[int]) -> torch.Tensor:
        return torch.zeros(len(keys), dtype=torch.float64)

    def of_layers(self, layer_type: str) -> "NoPositions":
        return self


class SinusoidalPositions(NoPositions):
    """Vaswani et al. 2017, arXiv 1706.03762, section 3.5."""

    def add(self, vector, position):
        size = len(vector)
        waves = []
        for i in range(size // 2):
            angle = position / 10000 ** (2 * i / size)
            waves += [math.sin(angle), math.cos(angle)]
        return vector + torch.tensor(waves, dtype=torch.float64)


class LearnedPositions(NoPositions):
    """Devlin et al. 2018, arXiv 1810.04805."""

    def add(self, vector, position):
        return vector + self.weights["embed_positions.weight"][position]


class RotaryPositions(NoPositions):
    """Su et al. 2021, arXiv 2104.09864, equation 13: features i and i + d/2 are one complex number, multiplied with
    `exp(1j * position * base^(-2i/d))`. Only the first part of a head is rotated if `partial_rotary_factor` says so.
    The parameters are one set, or one for each layer type.
    """

    def __init__(self, config, weights, parameters=None):
        super().__init__(config, weights)
        self.parameters = parameters or config.rope_parameters

    def of_layers(self, layer_type):
        return RotaryPositions(self.config, self.weights, self.parameters.get(layer_type, self.parameters))

    def rotate(self, vector, position):
        base = self.parameters["rope_theta"]
        half = int(len(vector) * self.parameters.get("partial_rotary_factor", 1.0)) // 2
        turns = torch.tensor([cmath.exp(1j * position * base ** (-i / half)) for i in range(half)])
        turned = torch.complex(vector[:half], vector[half : 2 * half]) * turns
        return torch.cat([turned.real, turned.imag, vector[2 * half :]])


def t5_bucket(offset: int, num_buckets: int, max_distance: int, is_causal: bool) -> int:
    """Raffel et al. 2019, arXiv 1910.10683, section 2.1, for a key `offset` tokens after the query.

    Half of the buckets hold one distance each. The borders of the others grow geometrically up to `max_distance`:
    border k lies at `exact * (max_distance / exact) ** (k / rest)`, compared here as whole numbers.
    """
    start = 0
    if is_causal:
        distance = max(-offset, 0)
    else:
        num_buckets //= 2
        start = num_buckets if offset > 0 else 0
        distance = abs(offset)
    exact = num_buckets // 2
    rest = num_buckets - exact
    if distance < exact:
        return start + distance
    passed = sum(distance**rest >= exact ** (rest - k) * max_distance**k for k in range(1, rest))
    return start + exact + passed


class RelativePositions(NoPositions):
    def biases(self, head, query, keys):
        table = self.weights["relative_attention_bias.weight"]
        limit, is_causal = self.config.relative_attention_max_distance, self.config.is_causal
        return table[[t5_bucket(key - query, len(table), limit, is_causal) for key in keys], head]


POSITIONS = {
    "none": NoPositions,
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
    "rope": RotaryPositions,
    "relative": RelativePositions,
}
