"""Measure speed and memory of 2-simplicial attention beside other ways to compute it, in one run."""

import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import torch
import transformers
from tqdm.auto import tqdm

from trine.scripts.arguments.parsing import check_known, parse_arguments
from trine.scripts.benchmarks.simplicial_peers import (
    FORM,
    PATHS,
    cache_bytes,
    causal_options,
    count_pairs,
    decode_kernels,
    decode_layer,
    fill_cache,
    make_layer,
    make_states,
    packaged,
)
from trine.scripts.reports.markdown import Target, in_fresh_process, measure, process_memory, processor, write_part


HEADS, HEAD_DIM = 2, 64


@dataclass
class SimplicialBenchmarkArguments:
    """Options of `trine benchmark simplicial`."""

    rounds: int = field(default=5, metadata={"help": "Measurements of each way, all in turn."})
    short: int = field(default=256, metadata={"help": "Tokens beside the naive einsum, whose cost is their cube."})
    lengths: list[int] = field(
        default_factory=lambda: [4096, 8192, 16384],
        metadata={"help": "Tokens, and contexts of decoding; the first is that of most comparisons."},
    )
    windows: list[int] = field(default_factory=lambda: [512, 32], metadata={"help": "Tokens of both windows."})
    parts: list[str] = field(
        default_factory=lambda: list(PARTS), metadata={"help": "Names of comparisons, by default all."}
    )
    report: str = field(
        default="docs/measurements/benchmarks.md", metadata={"help": "Markdown file whose part is replaced."}
    )

    def __post_init__(self):
        if len(self.windows) != 2:
            raise ValueError(f"windows={self.windows} must be two sizes.")
        for name in ("rounds", "short", "lengths", "windows"):
            value = getattr(self, name)
            if not value or min(value if isinstance(value, list) else [value]) < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        check_known(self, parts=PARTS)


def forward(path: Callable, length: int, **options) -> Callable[[], object]:
    """A forward pass on random states."""
    states = make_states(length, HEADS, HEAD_DIM)
    return torch.no_grad()(lambda: path(*states, **options))


def training(path: Callable, length: int, **options) -> Callable[[], object]:
    """A forward and backward pass on random states."""
    states = make_states(length, HEADS, HEAD_DIM, requires_grad=True)
    grad = torch.randn_like(states[0])
    return lambda: torch.autograd.grad(path(*states, **options), states, grad)


def training_memory(path: str, length: int, windows: list[int]) -> float:
    """Peak memory of a forward and backward pass in MiB, beyond that of its inputs."""
    options = causal_options(windows, HEAD_DIM)
    training(PATHS[path], 16, **options)()  # what the libraries set up once
    run = training(PATHS[path], length, **options)
    before = process_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    run()
    return process_memory("VmHWM") - before


def compare_training(
    peer: str, length: int, targets: tuple[Target | None, Target, Target], arguments: SimplicialBenchmarkArguments
) -> list[str]:
    """Rows for forward pass, both passes and memory, each where it has a target."""
    options, rows = causal_options(arguments.windows, HEAD_DIM), []
    for what, make, target in zip(("forward", "forward and backward"), (forward, training), targets, strict=False):
        if target is not None:
            times = measure({name: make(PATHS[name], length, **options) for name in ("Trine", peer)}, arguments.rounds)
            rows.append(target.row(f"{what}, {length} tokens", peer, times["Trine"], times[peer], "ms"))
    ours, theirs = ([in_fresh_process(training_memory, name, length, arguments.windows)] for name in ("Trine", peer))
    return [*rows, targets[2].row(f"memory of both, {length} tokens", peer, ours, theirs, "MiB")]


def compare_with_naive(arguments: SimplicialBenchmarkArguments) -> list[str]:
    """Rows beside an einsum over all triples."""
    return compare_training("naive einsum", arguments.short, (Target(30), Target(20), Target(40)), arguments)


def compare_with_autograd(arguments: SimplicialBenchmarkArguments) -> list[str]:
    """Rows beside autograd as one would write it."""
    targets = None, Target(0.6, is_least=False), Target(25)
    return compare_training("chunked autograd", arguments.lengths[0], targets, arguments)


def compare_with_chunks(arguments: SimplicialBenchmarkArguments) -> list[str]:
    """Rows beside autograd in the chunks that Trine cuts."""
    targets = None, Target(0.7, is_least=False), Target(25)
    return compare_training("same chunks, autograd", arguments.lengths[0], targets, arguments)


def compare_with_package(arguments: SimplicialBenchmarkArguments) -> list[str]:
    """Rows beside the package simplicial-attention, with windows as long as the text; none if it is not installed."""
    attend, reason = packaged()
    if attend is None:
        print(f"simplicial-attention is left out: {reason}.")
        return []
    options, rows = causal_options([arguments.short] * 2, HEAD_DIM), []
    states = make_states(arguments.short, HEADS, HEAD_DIM)
    torch.testing.assert_close(PATHS["Trine"](*states, **options), attend(*states), rtol=1e-4, atol=1e-4)
    for what, make in (("forward", forward), ("forward and backward", training)):
        runs = {"Trine": make(PATHS["Trine"], arguments.short, **options), "peer": make(attend, arguments.short)}
        times = measure(runs, arguments.rounds)
        what = f"{what}, {arguments.short} tokens, windows as long"
        rows.append(Target(1).row(what, "simplicial-attention", times["Trine"], times["peer"], "ms"))
    return rows


def compare_with_products(arguments: SimplicialBenchmarkArguments) -> list[str]:
    """Time beside that of a matrix product with as many operations, which is measured in turn."""
    options, length = causal_options(arguments.windows, HEAD_DIM), arguments.lengths[0]
    left, right, out = (torch.randn(1024, 1024) for _ in range(3))
    rows = []
    for what, make, products, bound in (("forward", forward, 4, 0.5), ("forward and backward", training, 16, 0.48)):
        operations = products * HEAD_DIM * HEADS * count_pairs(length, arguments.windows)
        runs = {"Trine": make(PATHS["Trine"], length, **options)}
        runs["product"] = lambda: [torch.mm(left, right, out=out) for _ in range(8)]
        times = measure(runs, arguments.rounds)
        product = [time / 8 * operations / (2 * 1024**3) for time in times["product"]]
        what = f"{what}, {length} tokens"
        rows.append(Target(bound).row(what, "sgemm of as many operations", times["Trine"], product, "ms"))
    return rows


def compare_lengths(arguments: SimplicialBenchmarkArguments) -> list[str]:
    """Time of a token of long texts beside that of shorter ones."""
    options, (shortest, *others), rows = causal_options(arguments.windows, HEAD_DIM), arguments.lengths, []
    for what, make in (("forward", forward), ("forward and backward", training)):
        times = measure({str(n): make(PATHS["Trine"], n, **options) for n in arguments.lengths}, arguments.rounds)
        tokens = {name: [time * 1000 / int(name) for time in values] for name, values in times.items()}
        for length in others:
            figures = tokens[str(length)], tokens[str(shortest)]
            rows.append(
                Target(1.1, is_least=False).row(
                    f"{what}, a token of {length}", f"itself, {shortest} tokens", *figures, "µs"
                )
            )
    return rows


@torch.no_grad()
def compare_decoding(arguments: SimplicialBenchmarkArguments) -> list[str]:
    """A token of one sequence: kernels alone, whole layers with their caches, and ours in longer contexts."""
    shortest, *others = arguments.lengths
    most, rows = Target(1.2, is_least=False), []
    layers = {n: decode_layer("simplicial", n, arguments.windows) for n in arguments.lengths}
    for what, runs in (
        ("kernel", decode_kernels(shortest, arguments.windows)),
        ("layer and cache", {"Trine": layers[shortest], "SDPA": decode_layer("full", shortest, arguments.windows)}),
    ):
        times = measure(runs, 3 * arguments.rounds, 20)
        rows.append(most.row(f"decoding, {what}, context {shortest}", "SDPA", times["Trine"], times["SDPA"], "ms"))
    times = measure({str(n): layer for n, layer in layers.items()}, 3 * arguments.rounds, 20)
    for length in others:
        figures = times[str(length)], times[str(shortest)]
        what = f"decoding, layer and cache, context {length}"
        rows.append(Target(1.1, is_least=False).row(what, f"itself, context {shortest}", *figures, "ms"))
    return rows


def compare_caches(arguments: SimplicialBenchmarkArguments) -> list[str]:
    """Rows for the size of a layer's cache beside that of both windows."""
    model, rows = make_layer("simplicial", arguments.windows), []
    whole = 2 * sum(arguments.windows) * 8 * 64 * 2 / 2**20
    for length in arguments.lengths:
        size = cache_bytes(fill_cache(model, length, arguments.windows, torch.bfloat16)) / 2**20
        what, beside = f"cache of a layer, 8 heads of 64, bfloat16, context {length}", "both windows"
        rows.append(Target(1, is_least=False).row(what, beside, [size], [whole], "MiB"))
    return rows


PARTS = {
    "naive": compare_with_naive,
    "autograd": compare_with_autograd,
    "chunks": compare_with_chunks,
    "products": compare_with_products,
    "lengths": compare_lengths,
    "decoding": compare_decoding,
    "caches": compare_caches,
    "package": compare_with_package,
}


def report(rows: list[str], arguments: SimplicialBenchmarkArguments, command: str) -> str:
    """The part of the Markdown file."""
    first, second = arguments.windows
    return f"""## 2-simplicial attention

Made on {date.today()} by `{command}`: {processor()}, 1 thread, float32, torch {torch.__version__}, transformers \
{transformers.__version__}, Python {platform.python_version()}.

Unless a row says otherwise: the path `chunked`, the form `{FORM}`, {HEADS} heads of {HEAD_DIM}, batch 1, causal \
windows of {first}
and {second} tokens. All ways of a comparison take turns in one process, {arguments.rounds} rounds (decoding: \
{3 * arguments.rounds}). Times are CPU time of the
process, and their medians stand here. A ratio is the peer's figure over Trine's where the target is a least value, and
Trine's over the peer's where it is a most: the median of the rounds' ratios, with the smallest and the largest. Memory
is the peak beyond that of the inputs, in a process of its own. `chunked autograd` unfolds all second windows, then
takes 32 queries at a time; `same chunks, autograd` takes Trine's own chunks: both leave the backward pass to autograd.
The sgemm is that of matrices of 1024 x 1024; 2-simplicial attention counts
4 operations a feature and seen pair forward, 16 in both passes. The layers that decode have 8 heads of 64, and here
the complex form and offset biases.

| what | beside | Trine | peer | ratio | target | met |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

`make bench-gpu` measures the kernels of a GPU.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark simplicial` with these arguments, by default the process's."""
    words = sys.argv[1:] if argv is None else argv
    (arguments,) = parse_arguments(
        [SimplicialBenchmarkArguments], argv, command="benchmark simplicial", description=__doc__
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name in (progress := tqdm(arguments.parts)):
        progress.set_description(name)
        new = PARTS[name](arguments)
        tqdm.write("\n".join(new))
        rows += new
    text = report(rows, arguments, shlex.join(["trine", "benchmark", "simplicial", *words]))
    write_part(Path(arguments.report), text)
    print(text)


if __name__ == "__main__":
    main()
