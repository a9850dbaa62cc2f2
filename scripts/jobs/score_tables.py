"""Scores of queries as means with intervals, and as a table."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from trine.training.measures.intervals import bootstrap_interval


def summarize(values: Mapping[str, Mapping[str, np.ndarray]], baseline: str = "bm25") -> dict[str, Any]:
    """The means of all queries and, by the bootstrap, their intervals, for each row and measure.

    Args:
        values: For each row, for each measure what each query has. One more row is made of what it has after training
            above what it has in the row of the baseline.
        baseline: That row, which may be missing.
    """
    if baseline in values:
        above = {name: each - values[baseline][name] for name, each in values["after"].items()}
        values = {**values, f"after - {baseline}": above}
    return {
        "scores": {
            row: {name: float(each.mean()) for name, each in row_values.items()} for row, row_values in values.items()
        },
        "intervals": {
            row: {name: bootstrap_interval(each) for name, each in row_values.items()}
            for row, row_values in values.items()
        },
    }


def describe(metrics: Mapping[str, Any]) -> str:
    """The scores as a table, with their intervals."""
    lines = [f"{metrics['validation_pairs']:,} held-out pairs, with intervals of 95 %:"]
    width = max(14, *(len(row) + 2 for row in metrics["scores"]))
    lines.append(" " * width + "".join(f"{name:>30}" for name in metrics["scores"]["after"]))
    for row, scores in metrics["scores"].items():
        ends = metrics["intervals"][row]
        cells = [f"{score:.4f} ({ends[name][0]:.4f} to {ends[name][1]:.4f})" for name, score in scores.items()]
        lines.append(f"{row:>{width}}" + "".join(f"{cell:>30}" for cell in cells))
    return "\n".join(lines)
