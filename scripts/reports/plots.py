"""Pictures of training runs, of what they have learned, and of measurements."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def draw_losses(
    history: list[dict[str, Any]], baselines: dict[str, float], path: Path, unit: str = "nats per token"
) -> None:
    """Training and validation loss over the steps, with a line for each baseline, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer step", ylabel=f"loss [{unit}]", title="Loss")
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label)
    for number, (name, loss) in enumerate(baselines.items()):
        axes.axhline(loss, color=f"C{number + 2}", linestyle="--", label=name)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:  # a run that ends before its first logging step has no line
        axes.legend()
    figure.savefig(path, dpi=120)


def draw_confusion(matrix: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draws the share of each true class (row) that was predicted as each (column), with the counts (C, C), as PNG."""
    from matplotlib.figure import Figure

    size = 3 + 0.4 * len(names)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="true", title="Confusion")
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=color)
    figure.savefig(path, dpi=120)


# What the trainer logs beside the loss, and how its axis is called.
PROGRESS = {
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
    "tokens_per_second": "tokens per second",
    "mfu": "model FLOPs utilisation",
}


def draw_progress(history: list[dict[str, Any]], path: Path) -> None:
    """Gradient norm, learning rate and speed over the steps, one panel each where they were logged, as PNG."""
    from matplotlib.figure import Figure

    names = [name for name in PROGRESS if any(name in entry for entry in history)]
    figure = Figure(figsize=(8, 1 + 2 * len(names)), layout="constrained")
    for number, name in enumerate(names):
        axes = figure.add_subplot(len(names), 1, number + 1, ylabel=PROGRESS[name])
        axes.plot(*zip(*((entry["step"], entry[name]) for entry in history if name in entry), strict=True))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if number == len(names) - 1:
            axes.set_xlabel("optimizer step")
    figure.savefig(path, dpi=120)


def draw_expert_load(history: list[dict[str, Any]], path: Path) -> None:
    """Draws the share of each expert in the choices of its layer over the steps, a panel per sparse layer, as PNG."""
    from matplotlib.figure import Figure

    entries = [entry for entry in history if "expert_load" in entry]
    steps = [entry["step"] for entry in entries]
    layers = list(zip(*(entry["expert_load"] for entry in entries), strict=True))  # layers, steps, experts
    figure = Figure(figsize=(8, 1 + 2 * len(layers)), layout="constrained")
    figure.suptitle("Expert load")
    for number, loads in enumerate(layers):
        axes = figure.add_subplot(len(layers), 1, number + 1, ylabel=f"share, sparse layer {number}")
        axes.stackplot(steps, *zip(*loads, strict=True))
        axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
        axes.set_ylim(0, 1)
    axes.set_xlabel("optimizer step")
    figure.savefig(path, dpi=120)


def draw_overview(
    history: list[dict[str, Any]],
    baselines: dict[str, float],
    heads: Mapping[str, np.ndarray],
    tokens: Sequence[str],
    path: Path,
) -> None:
    """Draws a run in one row, as PNG: its loss, the load of its first layer of experts, and heads of attention.

    `heads` are the weights (Q, K) of named heads for a text of these tokens; without experts there is no such panel.
    """
    from matplotlib.figure import Figure

    load = [(entry["step"], entry["expert_load"][0]) for entry in history if "expert_load" in entry]
    widths = [1.25, *[1.1] * bool(load), *[1.0] * len(heads)]
    figure = Figure(figsize=(2.8 * len(widths), 3), layout="constrained")
    axes, *others = figure.subplots(1, len(widths), width_ratios=widths)
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label)
    for number, (name, loss) in enumerate(baselines.items()):
        axes.axhline(loss, color=f"C{number + 2}", linestyle="--", linewidth=1, label=name)
    axes.set(title="loss, nats per token", xlabel="optimizer step", ylim=(0, None))
    axes.legend(fontsize=7)
    if load:
        axes, *others = others
        steps, shares = zip(*load, strict=True)
        axes.stackplot(steps, *zip(*shares, strict=True))
        axes.set(title="share of each expert", xlabel="optimizer step", ylim=(0, 1))
        axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    for number, (axes, (name, weights)) in enumerate(zip(others, heads.items(), strict=True)):
        axes.imshow(weights, cmap="Blues", vmin=0, aspect="auto")
        axes.set_title(f"attention: {name}")
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
        places = [] if number else range(len(tokens))  # the tokens are the same for all
        axes.set_yticks(places, [tokens[place] for place in places], fontsize=7)
        axes.tick_params(length=0)
    figure.savefig(path, dpi=100)


def draw_curves(
    curves: Mapping[str, Mapping[float, float]], path: Path, *, xlabel: str, ylabel: str, is_logarithmic: bool = False
) -> None:
    """A line for each name through its points, x to y, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    for number, (name, points) in enumerate(curves.items()):
        axes.plot(list(points), list(points.values()), "o-" if number < 10 else "s--", markersize=4, label=name)
    if is_logarithmic:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(path, dpi=120)
