"""Compares every Triton kernel with its definition in float64, on the device, for `trine benchmark gpu`."""

from collections.abc import Iterator
from typing import Any

import torch

from trine.modeling.kernels.simplicial.eager import simplicial_eager
from trine.modeling.kernels.simplicial.inputs import SimplicialInputs
from trine.modeling.kernels.simplicial.triton.launch import BACKWARD_KEY, BACKWARD_QUERY, FORWARD
from trine.modeling.kernels.simplicial.triton.operators import simplicial_triton
from trine.scripts.benchmarks.gpu_setting import Setting, attempt
from trine.scripts.benchmarks.kernel_cases import CASES, LARGE_CASES, Case


COLUMNS = (
    "case",
    "type",
    "choices of tiles",
    "error of the output",
    "largest error of a gradient",
    "at most",
    "holds",
)
KERNELS = (FORWARD, BACKWARD_QUERY, BACKWARD_KEY)
INPUTS = ("query", "key", "value", "second_key", "second_value", "offset_bias")
# The largest relative errors of the output and of a gradient: norms of differences over norms.
BOUNDS = {torch.bfloat16: (1e-2, 2e-2), torch.float16: (1e-2, 2e-2), torch.float32: (1e-5, 1e-5)}
REHEARSED = ("packed, padded on either side, bidirectional", "decode", "windows larger than the sequence")
NOTE = f"""Each row is a case with all of its results, forward and backward: relative errors beside the definition in
float64 of the same inputs, the largest of all choices of tile sizes; in float32, whose products are exact (no TF32),
and in float16 of the first choice, and of no case whose kernels take long to compile. "Repeats itself" is what
deterministic algorithms promise, bit by bit. Half precision may be off by {BOUNDS[torch.bfloat16][0]:g} in outputs and
{BOUNDS[torch.bfloat16][1]:g} in gradients."""


def jobs(setting: Setting) -> dict[str, tuple]:
    """A job for each case, and one for what must repeat itself."""
    names = setting.pick([*LARGE_CASES, *CASES], [*REHEARSED])
    return {name: (check_case, name) for name in names} | {"repeats itself": (check_repetition,)}


def check_case(setting: Setting, name: str) -> Iterator[list[str]]:
    """A row for each type."""
    case = (CASES | LARGE_CASES)[name]
    others = [torch.float32, torch.float16] if name in CASES or case.head_dim <= 64 else []
    for dtype in setting.pick([torch.bfloat16, *others], [torch.float32]):
        yield [name, str(dtype).removeprefix("torch."), *attempt(lambda dtype=dtype: compare(case, dtype, setting))]


def compare(case: Case, dtype: torch.dtype, setting: Setting) -> list[str]:
    """The cells of a case and type: the largest errors of all choices, and whether they are within bounds."""
    torch.manual_seed(0)
    tensors, segments = case.tensors(dtype, setting.device), case.segment_ids(setting.device)
    given = [tensor for tensor in tensors if tensor is not None]
    doubles: list[Any] = [t if t is None else t.detach().double().requires_grad_() for t in tensors]
    expected = simplicial_eager(SimplicialInputs(*doubles, segments=segments, **case.options))[0]
    direction = torch.randn_like(expected)
    exact = torch.autograd.grad(expected, [double for double in doubles if double is not None], direction)
    errors, fitting = [], 0
    choices = len(FORWARD.choices) if dtype == torch.bfloat16 else 1
    for choice in range(choices):
        take(choice)
        try:
            output = simplicial_triton(SimplicialInputs(*tensors, segments=segments, **case.options))
            grads = torch.autograd.grad(output, given, direction.to(dtype))
        except Exception as error:
            if type(error).__name__ != "OutOfResources" or choice == 0:  # such a choice is passed over when measuring
                raise
            continue
        fitting += 1
        gradients = [relative_error(one, other) for one, other in zip(grads, exact, strict=True)]
        errors.append((relative_error(output, expected), max(gradients, key=lambda error: (error != error, error))))
    output_error, gradient_error = (max(column) for column in zip(*errors, strict=True))
    bounds = BOUNDS[dtype]
    holds = all(output <= bounds[0] and gradient <= bounds[1] for output, gradient in errors)
    figures = f"{output_error:.1e}", f"{gradient_error:.1e}", f"{bounds[0]:g}, {bounds[1]:g}"
    return [f"{fitting} of {choices}", *figures, "yes" if holds else "**no**"]


def take(choice: int) -> None:
    """Makes all kernels of this process take this one of their choices, unmeasured."""
    for kernel in KERNELS:
        kernel.tuned, kernel.fixed = None, kernel.choices[choice]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference over that of what is expected; where that is nothing, the largest difference."""
    difference = actual.double() - expected
    return (difference.norm() / expected.norm() if expected.any() else difference.abs().max()).item()


def check_repetition(setting: Setting) -> Iterator[list[str]]:
    """A row: three runs of deterministic algorithms give the same bits."""
    name = setting.pick("grouped, biased, uneven windows", "windows larger than the sequence")
    case = (CASES | LARGE_CASES)[name]
    tensors = case.tensors(setting.dtype, setting.device)
    given = [tensor for tensor in tensors if tensor is not None]
    torch.use_deterministic_algorithms(True)

    def run() -> list[torch.Tensor]:
        output = simplicial_triton(SimplicialInputs(*tensors, segments=None, **case.options))
        return [output, *torch.autograd.grad(output.sum(), given)]

    def measure() -> list[str]:
        first, *others = (run() for _ in range(3))
        is_same = all(torch.equal(one, other) for each in others for one, other in zip(first, each, strict=True))
        return ["1 of 1", "", "", "the same bits", "yes" if is_same else "**no**"]

    yield ["repeats itself", str(setting.dtype).removeprefix("torch."), *attempt(measure)]
