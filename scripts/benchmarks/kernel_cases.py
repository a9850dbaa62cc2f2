"""Shapes at which the Triton kernels of 2-simplicial attention are compared with their definition."""

# Shapes: B batch, H heads, D head size.

from dataclasses import dataclass
from typing import Any

import torch

from trine.modeling.kernels.simplicial.forms import FORMS, Window


@dataclass(frozen=True)
class Case:
    """Shapes and windows; `segments` holds a row of (segment, length) for each sequence of the batch."""

    heads: tuple[int, int]
    lengths: tuple[int, int, int]  # of queries, keys, second keys
    head_dim: int
    first: Window
    second: Window
    form: str = "hadamard"
    batch: int = 1
    bias: bool = True
    segments: tuple[tuple[tuple[int, int], ...], ...] | None = None

    @property
    def options(self) -> dict:
        """The arguments of `SimplicialInputs` that are no tensors."""
        scale = FORMS[self.form].scale(self.head_dim)
        return {"first": self.first, "second": self.second, "form": self.form, "scale": scale}

    def tensors(self, dtype: torch.dtype, device: str) -> list[Any]:
        """The five inputs, and biases or None, as projections leave them: transposed (B, length, heads, D)."""
        heads, groups = self.heads
        queries, keys, seconds = self.lengths
        shapes = [(queries, heads), (keys, groups), (keys, groups), (seconds, groups), (seconds, groups)]
        states = [torch.randn(self.batch, *shape, self.head_dim).to(device, dtype).transpose(1, 2) for shape in shapes]
        bias = torch.randn(heads, self.second.size, device=device) if self.bias else None
        return [tensor if tensor is None else tensor.requires_grad_() for tensor in [*states, bias]]

    def segment_ids(self, device: str) -> torch.Tensor | None:
        """The segment of each token, (B, length), or None."""
        if self.segments is None:
            return None
        rows = [[number for number, length in row for _ in range(length)] for row in self.segments]
        return torch.tensor(rows, dtype=torch.int32, device=device)


# Small enough for Triton's interpreter.
CASES = {
    "causal": Case((4, 2), (18, 18, 18), 128, Window(9, 0), Window(3, 0), batch=2),
    "packed, padded on either side, bidirectional": Case(
        (2, 1), (23, 23, 23), 24, Window(6, 5), Window(2, 2), "complex", 2,
        segments=(((0, 4), (1, 9), (2, 10)), ((3, 12), (1, 6), (0, 5))),
    ),
    "caches of two lengths": Case(
        (2, 1), (5, 39, 20), 48, Window(33, 0), Window(6, 0), "determinant", 2,
        segments=(((0, 17), (1, 22)), ((1, 39),)),
    ),
    "chunk after a cache": Case((2, 1), (17, 40, 26), 24, Window(33, 0), Window(7, 0), "determinant"),
    "bidirectional, one key head of three": Case((3, 1), (18, 18, 18), 80, Window(4, 4), Window(1, 2), "complex"),
    "windows larger than the sequence": Case((2, 2), (9, 9, 9), 24, Window(99, 0), Window(12, 0), "complex"),
    "windows of one token": Case((2, 1), (33, 33, 33), 24, Window(0, 0), Window(0, 0), "determinant", bias=False),
    "tiles that are seen whole": Case((1, 1), (75, 75, 75), 16, Window(60, 50), Window(1, 1), "complex"),
    "decode": Case((2, 1), (1, 140, 20), 48, Window(130, 0), Window(19, 0), "determinant", 2),
    "largest second window": Case((1, 1), (3, 5, 130), 16, Window(3, 0), Window(127, 0)),
}  # fmt: skip
# Several programs and tiles in each direction. The first three compile what the measured shapes need.
LARGE_CASES = {
    "64 heads of 128 share a key head": Case((64, 1), (300, 300, 300), 128, Window(130, 0), Window(31, 0), bias=False),
    "16 heads of 64": Case((16, 16), (515, 515, 515), 64, Window(511, 0), Window(31, 0), bias=False),
    "16 heads of 128": Case((16, 16), (301, 301, 301), 128, Window(200, 0), Window(31, 0), bias=False),
    "grouped, biased, uneven windows": Case((8, 2), (701, 701, 701), 64, Window(298, 0), Window(20, 0), "complex"),
    "packed and padded at length": Case(
        (8, 2), (600, 600, 600), 64, Window(200, 0), Window(31, 0), "hadamard", 2,
        segments=(((0, 77), (1, 200), (2, 323)), ((1, 450), (2, 99), (0, 51))),
    ),
    "bidirectional thirds": Case((4, 2), (517, 517, 517), 96, Window(100, 77), Window(8, 7), "determinant"),
    "decode with full windows": Case((8, 2), (1, 512, 32), 128, Window(511, 0), Window(31, 0), batch=3),
    "largest heads": Case((2, 1), (130, 130, 130), 256, Window(70, 0), Window(15, 0)),
    "largest second window at length": Case((2, 1), (260, 260, 260), 64, Window(99, 0), Window(127, 0)),
}  # fmt: skip
