"""Compile the Triton kernels for a GPU, which need not be there, and tabulate what they take of it."""

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from trine.modeling.kernels.simplicial.forms import FORMS, Window, make_window
from trine.modeling.kernels.simplicial.inputs import SimplicialInputs
from trine.modeling.kernels.simplicial.triton import launch as launches
from trine.modeling.kernels.simplicial.triton.rows import is_interpreted, triton
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.reports.markdown import write_part


CAPABILITY = 90  # of H100 and H200
LARGEST_SHARED = 227 * 1024  # bytes that a program may have there
TOKENS = 4096
HEADS, KEY_HEADS = 8, 2
HEADING = f"## Kernels compiled for sm_{CAPABILITY}"
TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int32: "i32"}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass
class InspectArguments:
    """Options of `trine benchmark kernels`."""

    head_dims: list[int] = field(default_factory=lambda: [64, 128], metadata={"help": "Head sizes."})
    first_window: int = field(default=512, metadata={"help": "Tokens of the first window."})
    second_window: int = field(default=32, metadata={"help": "Tokens of the second window."})
    form: str = field(default="hadamard", metadata={"help": f"Trilinear form: one of {', '.join(FORMS)}."})
    dtype: str = field(default="bfloat16", metadata={"help": f"Type of the inputs: one of {', '.join(DTYPES)}."})
    segments: bool = field(default=False, metadata={"help": "Compile for sequences that are packed or padded."})
    report: str = field(
        default="docs/measurements/benchmarks.md", metadata={"help": "Markdown file whose part is replaced."}
    )

    def __post_init__(self):
        for name, choices in (("form", FORMS), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {list(choices)}.")
        parts, largest = FORMS[self.form].parts, launches.LARGEST_VECTOR // DTYPES[self.dtype].itemsize
        if any(size < 1 or size > largest or size % parts for size in self.head_dims):
            reason = f"by form={self.form!r} and dtype={self.dtype!r}"
            raise ValueError(f"head_dims={self.head_dims} must be multiples of {parts} up to {largest}, {reason}.")
        for name, most in (("first_window", TOKENS), ("second_window", launches.LARGEST_SECOND_WINDOW)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name}={getattr(self, name)} must be from 1 to {most}.")


class Launch(NamedTuple):
    """A kernel that would have been started, the `triton.Config`s to choose from, and its arguments."""

    name: str
    function: Any
    choices: list
    arguments: dict[str, Any]


def record_launches(arguments: InspectArguments, head_dim: int) -> list[Launch]:
    """Records the kernels that a training step, and the decoding of a token, would start."""
    first, second = (make_window(size, True) for size in (arguments.first_window, arguments.second_window))
    recorded = []

    def record(kernel, grid, values, **options):
        is_tuned = hasattr(kernel, "configs")
        function, choices = (kernel.fn, kernel.configs) if is_tuned else (kernel, [triton.Config({}, **options)])
        suffix = " (one query)" if values.get("QUERIES") == 1 else ""
        recorded.append(Launch(function.__name__ + suffix, function, choices, values))

    with mock.patch.object(launches, "start", record):
        for lengths in ((TOKENS, TOKENS, TOKENS), (1, first.size, second.size)):
            shared = share(arguments, head_dim, lengths, first, second)
            output, log_sum = launches.launch_forward(shared)
            if lengths[0] > 1:
                launches.launch_backward(shared, output, log_sum, torch.empty_like(log_sum))
    return recorded


def share(arguments: InspectArguments, head_dim: int, lengths: tuple[int, int, int], first: Window, second: Window):
    """The arguments that the launches share, for empty tensors of these numbers of queries, keys and second keys."""
    queries, keys, seconds = lengths
    heads_and_lengths = [(HEADS, queries), *[(KEY_HEADS, keys)] * 2, *[(KEY_HEADS, seconds)] * 2]
    inputs = [torch.empty(1, *shape, head_dim, dtype=DTYPES[arguments.dtype]) for shape in heads_and_lengths]
    bias = torch.empty(HEADS, second.size)
    segments = torch.empty(1, max(keys, seconds), dtype=torch.int32) if arguments.segments else None
    options = {"first": first, "second": second, "form": arguments.form, "scale": 1.0}
    return launches.shared_arguments(SimplicialInputs(*inputs, offset_bias=bias, segments=segments, **options))


def describe(function, values: dict[str, Any]):
    """Triton's source of a kernel, specialized for these arguments as a launch would be: for 1, multiples of 16."""
    from triton.compiler import ASTSource

    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(function.params):
        value = values[parameter.name]
        is_special = isinstance(value, int) and not parameter.do_not_specialize
        if parameter.is_constexpr or (is_special and value == 1):
            signature[parameter.name], constants[(index,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = f"*{TYPES[value.dtype]}"
        else:
            signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
        is_aligned = isinstance(value, torch.Tensor) or (is_special and value % 16 == 0)
        if signature[parameter.name] != "constexpr" and is_aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)


def compile_kernel(function, values: dict[str, Any], warps: int, stages: int) -> tuple[int, int, int, int]:
    """Registers of a thread, bytes of its stack, shared bytes of a program, and asynchronous matrix products."""
    from triton.backends.compiler import GPUTarget

    options = {"num_warps": warps, "num_stages": stages, **launches.OPTIONS}
    compiled = triton.compile(describe(function, values), target=GPUTarget("cuda", CAPABILITY, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file)]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.findall(rf"{name}:(\d+)", usage)[0]) for name in ("REG", "STACK"))
    return registers, stack, compiled.metadata.shared, compiled.asm["ptx"].count("wgmma.mma_async")


def table(arguments: InspectArguments) -> str:
    """A row for each kernel and each of its choices, the first choice in bold."""
    columns = ("head size", "kernel", "rows", "keys a tile", "warps", "stages", "registers", "spilled bytes")
    columns += ("shared memory", "wgmma")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for head_dim in arguments.head_dims:
        for launch in record_launches(arguments, head_dim):
            for place, choice in enumerate(launch.choices):
                warps, stages = choice.num_warps, choice.num_stages
                values = launch.arguments | choice.kwargs
                registers, stack, shared, products = compile_kernel(launch.function, values, warps, stages)
                name = f"**{launch.name}**" if place == 0 else launch.name
                memory = f"{shared / 1024:.0f} KiB" + (", too much" if shared > LARGEST_SHARED else "")
                cells = (head_dim, name, values.get("ROWS", "-"), values.get("TILE", "-"), warps, stages, registers)
                lines.append(f"| {' | '.join(map(str, (*cells, stack, memory, products)))} |")
                print(lines[-1], flush=True)
    return "\n".join(lines)


def section(arguments: InspectArguments, command: str) -> str:
    """The part of the Markdown file."""
    segments = "packed or padded sequences" if arguments.segments else "whole sequences"
    return f"""{HEADING}

Made on {date.today()} by `{command}`: Triton {triton.__version__}, torch {torch.__version__}. \
**No GPU took part: the kernels were compiled, not run, and their speed on a GPU was not measured.**

These are the kernels of 2-simplicial attention in the {arguments.form} form for windows of {arguments.first_window} \
and {arguments.second_window} tokens,
{arguments.dtype} inputs, offset biases, {HEADS // KEY_HEADS} query heads to a key head, and {segments}.
A program folds the second window into its rows and passes the first in tiles of keys. In bold is the choice that is
taken unmeasured for up to 16 queries and where algorithms must be deterministic; else the fastest choice is found at
the first call. A thread has at most 255 registers, and what they cannot hold spills to its stack. A program has at
most {LARGEST_SHARED // 1024} KiB of shared memory,
and a choice that takes more is passed over. The last column counts, in the text of a program, the instructions by
which Hopper's tensor cores multiply matrices.

{table(arguments)}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark kernels` with these arguments, by default the process's."""
    words = list(sys.argv[1:] if argv is None else argv)
    (arguments,) = parse_arguments([InspectArguments], words, command="benchmark kernels", description=__doc__)
    if triton is None or is_interpreted:
        reason = "TRITON_INTERPRET=1 is set" if is_interpreted else "Triton is not installed: pip install triton"
        sys.exit(f"trine: The kernels cannot be compiled: {reason}.")
    write_part(Path(arguments.report), section(arguments, shlex.join(["trine", "benchmark", "kernels", *words])))


if __name__ == "__main__":
    main()
