"""A picture of pictures that were found by words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


LONGEST = 40  # characters of a text that is shown


def draw_found(
    queries: Sequence[str], found: Sequence[Sequence[int]], pictures: Any, names: Sequence[str], path: Path
) -> None:
    """Draws a row of pictures for each query, best first, each with its own name, as PNG.

    Args:
        queries: One text or more.
        found: The numbers of the pictures of each query.
        pictures: Each number's has an array (height, width, 3) under `picture`.
        names: The name of each picture.
        path: The file.
    """
    from matplotlib.figure import Figure

    columns = max(map(len, found))
    figure = Figure(figsize=(2.2 * columns + 1, 2.1 * len(queries)), layout="constrained")
    grid = figure.subplots(len(queries), columns, squeeze=False)
    for axes, query, numbers in zip(grid, queries, found, strict=True):
        for place, number in zip(axes, numbers, strict=False):
            place.imshow(pictures[number]["picture"])
            is_own = names[number] == query
            place.set_xlabel(names[number][:LONGEST], fontsize=8, weight="bold" if is_own else "normal")
        for place in axes:
            place.set_xticks([])
            place.set_yticks([])
        axes[0].set_title(query[:LONGEST], loc="left", fontsize=11)
    figure.savefig(path, dpi=100)
