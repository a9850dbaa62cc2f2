"""Pictures of a training run, from the trainer's log history."""

from pathlib import Path
from typing import Any


def draw_losses(history: list[dict[str, Any]], baselines: dict[str, float], path: Path) -> None:
    """Training and validation loss over the steps, with a line for each baseline, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="loss [nats per token]", title="Loss")
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label)
    for number, (name, loss) in enumerate(baselines.items()):
        axes.axhline(loss, color=f"C{number + 2}", linestyle="--", label=name)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_expert_load(history: list[dict[str, Any]], path: Path) -> None:
    """The share of each expert in the choices of its layer over the steps, one panel a sparse layer, as PNG."""
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
