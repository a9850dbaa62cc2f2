"""The part of `trine benchmark simplicial` that needs a GPU: TFLOP/s of the Triton kernels beside flex and SDPA."""

import statistics
import subprocess
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

from trine.modeling.kernels.simplicial.flex import simplicial_flex
from trine.modeling.kernels.simplicial.forms import FORMS, make_window
from trine.modeling.kernels.simplicial.inputs import SimplicialInputs
from trine.modeling.kernels.simplicial.triton.operators import simplicial_triton, triton_unavailable
from trine.scripts.benchmarks.simplicial_peers import FORM, count_pairs


WINDOWS = [512, 32]
WARM_UPS, REPEATS = 5, 20


class Shape(NamedTuple):
    """Sizes of one measurement."""

    batch: int
    heads: int
    key_heads: int
    length: int
    head_dim: int


# The first is the authors': their kernel made 337 TFLOP/s on an H100, and 588 by their fork of Triton.
SHAPES = (Shape(4, 64, 1, 8192, 128), Shape(1, 16, 16, 4096, 64), Shape(1, 16, 16, 4096, 128))


def simplicial(path: Callable) -> Callable:
    """A path of 2-simplicial attention as a function of the five states."""
    first, second = (make_window(size, True) for size in WINDOWS)

    def attend(*states: torch.Tensor) -> torch.Tensor:
        scale = FORMS[FORM].scale(states[0].shape[-1])
        options = {"first": first, "second": second, "form": FORM, "scale": scale}
        return path(SimplicialInputs(*states, offset_bias=None, segments=None, **options))

    return attend


def sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_) -> torch.Tensor:
    """Causal attention to the whole text."""
    is_grouped = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=is_grouped)


# Name to function, and how many pairs it weighs for a head of so many tokens.
PATHS: dict[str, tuple[Callable, Callable[[int], int]]] = {
    "Triton": (simplicial(simplicial_triton), lambda length: count_pairs(length, WINDOWS)),
    "flex, compiled": (simplicial(simplicial_flex), lambda length: count_pairs(length, WINDOWS)),
    "SDPA, causal": (sdpa, lambda length: length * (length + 1) // 2),
}


def gpu_time(run: Callable[[], object]) -> float:
    """Median seconds of a run by the GPU's own clock."""
    for _ in range(WARM_UPS):
        run()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPEATS)]
    for start, stop in events:
        start.record()
        run()
        stop.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in events) / 1000


def time_passes(attend: Callable, states: list[torch.Tensor], used: list[torch.Tensor]) -> tuple[float, float]:
    """Seconds of the forward pass and of the backward pass, to the states that are used."""
    with torch.no_grad():
        forward = gpu_time(lambda: attend(*states))
    output = attend(*states)
    grad = torch.randn_like(output)
    return forward, gpu_time(lambda: torch.autograd.grad(output, used, grad, retain_graph=True))


def clocks() -> str:
    """The clocks of processors and memory, now and at most, and the power, from nvidia-smi."""
    query = "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem,power.draw"
    command = ["nvidia-smi", f"--id={torch.cuda.current_device()}", query, "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def measure_shape(shape: Shape) -> list[str]:
    """Rows of the report, one a path: TFLOP/s of the forward and of the backward pass, and the clocks meanwhile."""
    sizes = [shape.heads, *[shape.key_heads] * 4]
    options = {"device": "cuda", "dtype": torch.bfloat16, "requires_grad": True}
    states = [torch.randn(shape.batch, heads, shape.length, shape.head_dim, **options) for heads in sizes]
    name = ", ".join(f"{key} {value}" for key, value in shape._asdict().items())
    rows = []
    for path, (attend, pairs) in PATHS.items():
        used = states[:3] if attend is sdpa else states
        products = shape.batch * shape.heads * shape.head_dim * pairs(shape.length) / 1e12
        try:
            forward, backward = time_passes(attend, states, used)
            # Backward, a pair of 2-simplicial attention needs 6 products of the head size; one of SDPA's, 5.
            figures = 4 * products / forward, (10 if attend is sdpa else 12) * products / backward
            cells = " | ".join([*(f"{figure:.0f}" for figure in figures), clocks()])
        except torch.OutOfMemoryError:
            cells = "out of memory | out of memory | -"
        torch.cuda.empty_cache()
        rows.append(f"| {name} | {path} | {cells} |")
    return rows


def report_cuda() -> str:
    """The part of the report about the GPU, or that there is none."""
    if not torch.cuda.is_available():
        return "On a GPU: not measured."
    reason = triton_unavailable(torch.empty(1, device="cuda", dtype=torch.bfloat16))
    if reason is not None:
        return f"On a GPU: not measured, because {reason}."
    rows = [row for shape in SHAPES for row in measure_shape(shape)]
    return f"""On {torch.cuda.get_device_name()}, bfloat16, causal windows of {WINDOWS[0]} and {WINDOWS[1]} tokens, \
medians of {REPEATS} runs.
Operations are counted for pairs that are seen alone: 4 a feature and pair forward; 12 backward, which is what is
needed (the kernels compute 16, for both of their passes compute the weights), and 10 for SDPA.

| shape | path | forward TFLOP/s | backward TFLOP/s | clock, its maximum, clock of the memory, power |
|---|---|---|---|---|
{chr(10).join(rows)}"""
