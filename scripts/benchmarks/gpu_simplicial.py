"""TFLOP/s of 2-simplicial attention's Triton kernels beside flex attention and SDPA, for `trine benchmark gpu`."""

import subprocess
from collections.abc import Callable, Iterator
from math import isqrt
from typing import NamedTuple

import torch
from torch.nn import functional

from trine.modeling.kernels.simplicial.flex import simplicial_flex
from trine.modeling.kernels.simplicial.forms import FORMS, make_window
from trine.modeling.kernels.simplicial.inputs import SimplicialInputs
from trine.modeling.kernels.simplicial.triton.operators import simplicial_triton
from trine.scripts.benchmarks.gpu_setting import REPEATS, Setting, attempt
from trine.scripts.benchmarks.simplicial_peers import FORM, count_pairs


class Shape(NamedTuple):
    """Sizes of one measurement; windows of the first and of the second keys."""

    batch: int
    heads: int
    key_heads: int
    length: int
    head_dim: int
    first: int = 512
    second: int = 32


# The first is the authors': their kernel made 337 TFLOP/s on an H100, and 588 by their fork of Triton.
SHAPES = (
    Shape(4, 64, 1, 8192, 128),
    Shape(1, 16, 16, 4096, 64),
    Shape(1, 16, 16, 4096, 128),
    Shape(8, 16, 4, 4096, 64, 64, 8),
)
SMALL_SHAPES = (Shape(1, 2, 1, 20, 16, 8, 4),)
FLEX = "flex, compiled"
COLUMNS = ("shape", "path", "forward ms", "TFLOP/s", "backward ms", "TFLOP/s", "clock, its maximum, of memory, power")
NOTE = f"""Causal windows; medians of {REPEATS} runs. The first shape is that of Roy et al. 2025, arXiv 2507.02754.
SDPA attends to the whole text before a token, with texts of such a length that as many pairs are weighed. Operations
are counted for pairs that are seen alone: 4 a feature and pair forward; 12 backward, which is what is needed (the
kernels compute 16, for both of their passes compute the weights), and 10 for SDPA. flex attention computes a head for
each offset of the second key, compiled."""


def jobs(setting: Setting) -> dict[str, tuple]:
    """A job for each path and shape; flex attention, whose kernels take long to compile, last and for two shapes."""
    shapes = setting.pick(SHAPES, SMALL_SHAPES)
    pairs = [(path, shape) for path in PATHS for shape in (shapes[:2] if path == FLEX else shapes)]
    return {f"{name_of(shape)}, {path}": (measure_path, shape, path) for path, shape in pairs}


def name_of(shape: Shape) -> str:
    """The sizes in words."""
    return ", ".join(f"{key} {value}" for key, value in shape._asdict().items())


def simplicial(path: Callable[[SimplicialInputs], torch.Tensor]) -> Callable:
    """A path of 2-simplicial attention as a function of a shape and the five states."""

    def attend(shape: Shape, *states: torch.Tensor) -> torch.Tensor:
        first, second = make_window(shape.first, True), make_window(shape.second, True)
        options = {"first": first, "second": second, "form": FORM, "scale": FORMS[FORM].scale(shape.head_dim)}
        return path(SimplicialInputs(*states, offset_bias=None, segments=None, **options))

    return attend


def sdpa(shape: Shape, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention to the whole text."""
    is_grouped = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=is_grouped)


# Name to function, how many states it takes, and operations of the backward pass a feature and pair.
PATHS: dict[str, tuple[Callable, int, int]] = {
    "Triton": (simplicial(simplicial_triton), 5, 12),
    "SDPA, as many pairs": (sdpa, 3, 10),
    FLEX: (simplicial(simplicial_flex), 5, 12),
}


def pairs_of(shape: Shape) -> int:
    """Pairs that the tokens of one head see."""
    return count_pairs(shape.length, [shape.first, shape.second])


def make_states(shape: Shape, count: int, setting: Setting, **options) -> list[torch.Tensor]:
    """Random states; the three of SDPA are so long that they have as many pairs."""
    length = shape.length if count == 5 else isqrt(2 * pairs_of(shape))
    heads = [shape.heads, *[shape.key_heads] * (count - 1)]
    options |= {"device": setting.device, "dtype": setting.dtype}
    return [torch.randn(shape.batch, number, length, shape.head_dim, **options) for number in heads]


def measure_path(setting: Setting, shape: Shape, path: str) -> Iterator[list[str]]:
    """A row: time and TFLOP/s of the forward and of the backward pass, and the clocks meanwhile."""
    yield [name_of(shape), path, *attempt(lambda: measure_passes(setting, shape, path))]


def measure_passes(setting: Setting, shape: Shape, path: str) -> list[str]:
    """The cells of a row, after its names."""
    attend, count, backward_operations = PATHS[path]
    trains = path != FLEX or not setting.is_rehearsal  # flex attention has no backward pass on a CPU
    states = make_states(shape, count, setting, requires_grad=trains)
    with torch.no_grad():
        cells = [*speed(4, setting.seconds(lambda: attend(shape, *states)), shape)]
    if not trains:
        return [*cells, "-", "-", "-"]
    output = attend(shape, *states)
    grad = torch.randn_like(output)
    backward = setting.seconds(lambda: torch.autograd.grad(output, states, grad, retain_graph=True))
    cells += speed(backward_operations, backward, shape)
    return [*cells, clocks(setting)]


def speed(operations: int, seconds: float, shape: Shape) -> tuple[str, str]:
    """Milliseconds, and TFLOP/s for so many operations a feature and pair."""
    total = operations * shape.batch * shape.heads * shape.head_dim * pairs_of(shape)
    return f"{seconds * 1000:.2f}", f"{total / seconds / 1e12:.0f}"


def clocks(setting: Setting) -> str:
    """The clocks of processors and memory, now and at most, and the power, from nvidia-smi where it tells them."""
    if setting.is_rehearsal:
        return "-"
    query = "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem,power.draw"
    command = ["nvidia-smi", f"--id={torch.cuda.current_device()}", query, "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "-"
