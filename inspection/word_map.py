"""Draws words as points of a plane: those that are near each other by their vectors are near on the map."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.functional import normalize

from .page import fill
from .pictures import OWN_FONT, fit


# What a point is, and its colour in pictures.
ASKED, RESULT, FOUND = "asked", "result", "found"
COLOURS = {ASKED: "#0b4fa8", RESULT: "#c2410c", FOUND: "#7a828c"}


class WordMap(NamedTuple):
    """Words of one layer, for a map.

    Args:
        name: Such as "layer 3".
        labels: N words.
        kinds: What each is: `asked`, `result` or `found`.
        vectors: Their vectors (N, D).
    """

    name: str
    labels: list[str]
    kinds: list[str]
    vectors: torch.Tensor


def plane(vectors: torch.Tensor) -> torch.Tensor:
    """Places (N, 2) by the two directions in which vectors differ most, once all have length 1 (PCA).

    The number of the point that is farthest out is positive in each, so that a map is always the same.
    """
    centred = normalize(vectors.double(), dim=-1)
    centred = centred - centred.mean(0)
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    places = torch.nn.functional.pad(left * sizes, (0, 2))[:, :2]
    farthest = places.abs().argmax(0)
    return places * torch.where(places.gather(0, farthest[None])[0] < 0, -1.0, 1.0)


def draw_words(item: WordMap, path: Path, fonts: Sequence[str] = ()) -> None:
    """Draws a map as PNG. `fonts` are those of signs that matplotlib's own font lacks, as `fonts_for` finds them."""
    import matplotlib
    from matplotlib.figure import Figure

    places = plane(item.vectors).tolist()
    with matplotlib.rc_context({"font.family": [OWN_FONT, *fonts]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # `fonts_for` has said so
        figure = Figure((7, 5), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(item.name, fontsize=10)
        axes.margins(0.15)
        for kind in dict.fromkeys(item.kinds):
            points = [place for place, other in zip(places, item.kinds, strict=True) if other == kind]
            axes.scatter(*zip(*points, strict=True), s=18, color=COLOURS[kind], label=kind)
        for label, kind, place in zip(item.labels, item.kinds, places, strict=True):
            axes.annotate(fit(label), place, (4, 3), textcoords="offset points", fontsize=9, color=COLOURS[kind])
        axes.legend(fontsize=8, frameon=False)
        axes.set_xticks([])
        axes.set_yticks([])
        figure.savefig(path, dpi=130)


def write_word_page(maps: Sequence[WordMap], title: str, notes: Sequence[str], path: Path) -> None:
    """Writes a page of HTML with a map for each layer, which loads nothing: a click on a word lists its neighbours."""
    views = []
    for item in maps:
        unit = normalize(item.vectors.double(), dim=-1)
        rounded = [[round(number, 4) for number in row] for row in (unit @ unit.T).tolist()]
        places = [[round(number, 5) for number in row] for row in plane(item.vectors).tolist()]
        parts = {"labels": item.labels, "kinds": item.kinds, "places": places, "cosines": rounded}
        views.append({"name": item.name, **parts})
    fill("words.html", {"title": title, "notes": [*notes], "views": views}, path)
