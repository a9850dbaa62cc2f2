"""The tables, text and plots of `trine benchmark attention`."""

import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import torch
import transformers

from trine.scripts.benchmarks.attention_arguments import AttentionBenchmarkArguments
from trine.scripts.benchmarks.attention_layers import BOTH, EAGER, HEADS, HIDDEN, QUADRATIC, TASKS
from trine.scripts.reports.markdown import processor
from trine.scripts.reports.plots import draw_curves


Figures = Mapping[int, Sequence[float]]  # the measurements of each round by the number of tokens

LARGEST_EXPONENT = 1.15
FLAT = 1.2  # of decoding: time after the longest text over that after the shortest


def fit_exponent(costs: Mapping[int, float]) -> float:
    """The slope of log cost over log length by least squares: the e of a cost c * n**e. NaN below two lengths."""
    if len(costs) < 2:
        return math.nan
    lengths, logs = [math.log(length) for length in costs], [math.log(cost) for cost in costs.values()]
    return statistics.linear_regression(lengths, logs).slope


def exponents(figures: Figures, fit_from: int) -> list[float]:
    """The exponent of the medians over lengths from `fit_from` on, then the least and greatest of single rounds."""
    chosen = {length: values for length, values in figures.items() if length >= fit_from}
    rounds = min(map(len, chosen.values()), default=0)
    singles = [fit_exponent({length: values[index] for length, values in chosen.items()}) for index in range(rounds)]
    middle = fit_exponent({length: statistics.median(values) for length, values in chosen.items()})
    return [middle, min(singles, default=math.nan), max(singles, default=math.nan)]


def faster_from(figures: Figures, other: Figures) -> int | None:
    """The length from which on the medians are below the other's, up to the longest that both have, or None."""
    start = None
    for length in sorted(figures.keys() & other.keys(), reverse=True):
        if statistics.median(figures[length]) >= statistics.median(other[length]):
            break
        start = length
    return start


def variation(values: Sequence[float]) -> float:
    """The distance of the greatest from the least, as a share of the median."""
    return (max(values) - min(values)) / statistics.median(values)


def growth_table(figures: dict[str, Figures], unit: str, arguments: AttentionBenchmarkArguments) -> str:
    """A row per kind: medians, the exponent, whether it is small enough, and from where full attention costs more."""
    lengths = [length for length in arguments.lengths if any(length in row for row in figures.values())]
    rows = [f"| {unit} | {' | '.join(map(str, lengths))} | exponent | at most {LARGEST_EXPONENT} | below full from |"]
    rows.append("|---" * (len(lengths) + 4) + "|")
    for way, row in figures.items():
        cells = [f"{statistics.median(row[length]):,.1f}" if length in row else "" for length in lengths]
        middle, least, most = exponents(row, arguments.fit_from)
        exponent = "-" if math.isnan(middle) else f"{middle:.2f}"
        if least < most:
            exponent += f" ({least:.2f} to {most:.2f})"
        is_met = "" if way in QUADRATIC or math.isnan(middle) else "yes" if middle <= LARGEST_EXPONENT else "**no**"
        start = faster_from(row, figures.get("full", {})) if way not in QUADRATIC else ""
        rows.append(f"| {way} | {' | '.join(cells)} | {exponent} | {is_met} | {'-' if start is None else start} |")
    return "\n".join(rows)


def decoding_table(figures: dict[str, Figures]) -> str:
    """A row per kind: medians, and the ratio of a token's time after the longest text and after the shortest."""
    contexts = list(next(iter(figures.values())))
    rows = [f"| ms a token after | {' | '.join(map(str, contexts))} | last over first | flat: at most {FLAT} |"]
    rows.append("|---" * (len(contexts) + 3) + "|")
    for way, row in figures.items():
        medians = [statistics.median(values) for values in row.values()]
        growth = medians[-1] / medians[0]
        cells = " | ".join(f"{median:.3f}" for median in medians)
        rows.append(f"| {way} | {cells} | {growth:.2f} | {'yes' if growth <= FLAT else 'no'} |")
    return "\n".join(rows)


def report(results: dict, arguments: AttentionBenchmarkArguments, command: str) -> str:
    """The part of the Markdown file."""
    spreads = [variation(values) for task in TASKS for row in results[task].values() for values in row.values()]
    parts = [
        f"## Attention kinds against length, {arguments.shape}",
        f"""Made on {date.today()} by `{command}`: {processor()}, 1 thread, float32, torch {torch.__version__}, \
transformers {transformers.__version__}, Python {platform.python_version()}.""",
        f"""One attention layer of each kind, projections and the making of its mask included: hidden size {HIDDEN}, \
{HEADS} heads of {HIDDEN // HEADS},
batch 1, no positions, windows and blocks at their defaults (simplicial: 64 and 8 tokens) in a model meant for texts of
{max(arguments.lengths)} tokens. `full` runs PyTorch's kernel, which holds no table of weights; `{EAGER}` writes it
out. All kinds of a length take turns in one process, which keeps freed memory
for the next tensors; else new pages for those above 32 MiB can take as long as the computation. Times are CPU time of
the process: medians of \
{arguments.rounds} rounds, or up
to 4 times as many below 8192 tokens; from a figure's least to its greatest it is {statistics.median(spreads):.0%} of \
it in the median, and {max(spreads):.0%} at
most. Memory is the peak growth of a fresh process, with weights, gradients and inputs. Exponents are slopes of least
squares in log cost against log length, from {arguments.fit_from} tokens on (in brackets: of single rounds).""",
    ]
    for task in TASKS:
        parts += [f"### {task.capitalize()}", growth_table(results[task], "ms", arguments)]
    parts += [f"### Peak memory, {BOTH}", growth_table(results["memory"], "MiB", arguments)]
    if results["decoding"]:
        parts += ["### Decoding a token with a cache", decoding_table(results["decoding"])]
    if results["peers"]:
        heading = "| what | beside | Trine | peer | ratio | target | met |\n|---|---|---|---|---|---|---|"
        text = "At equal settings, both in turn; a ratio is the peer's time over Trine's."
        parts += ["### Beside other implementations", text, "\n".join([heading, *results["peers"]])]
    return "\n\n".join(parts) + "\n"


def draw(results: dict, arguments: AttentionBenchmarkArguments) -> None:
    """Draws log-log plots of all measurements against the number of tokens."""
    for name, ylabel in (
        ("forward", "forward [ms]"),
        (BOTH, f"{BOTH} [ms]"),
        ("memory", "peak memory [MiB]"),
        ("decoding", "a token after the text [ms]"),
    ):
        curves = {
            way: {length: statistics.median(values) for length, values in row.items()}
            for way, row in results[name].items()
        }
        path = Path(arguments.output_dir) / f"{arguments.shape}-{name.replace(' ', '-')}.png"
        if curves:
            draw_curves(curves, path, xlabel="tokens", ylabel=ylabel, is_logarithmic=True)
