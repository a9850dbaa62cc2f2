"""Draws attention maps: a panel for each head, in one file per layer."""

import math
import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from .attention import WeightMap


logger = logging.get_logger(__name__)

OWN_FONT = "DejaVu Sans"
LONGEST_LABEL = 18  # characters
WIDEST = 16.0  # inches, of all panels of a row
CELL = 0.16  # inches, where there is room
GAP = 0.12  # inches between panels, and GAP + TITLE above one
TITLE = 0.2
LEAST_SCALE = 4  # times 1/n
LETTERS = 6.0  # points
FONT_ADVICE = (
    "No installed font has {signs}: pictures show boxes in their place (the page has the fonts of the browser). "
    "For Chinese, on Debian: apt-get install fonts-noto-cjk."
)


def draw_map(item: WeightMap, path: Path, fonts: Sequence[str] = ()) -> None:
    """The weights of each head as a heat map, as PNG.

    Each panel has a scale of its own, up to its largest weight and to `LEAST_SCALE` / n at least, so that a head that
    looks evenly at n tokens is pale. Its title names that weight, and how many times 1/n a row looks at a token that
    sees n of them.

    `fonts` are those of signs that matplotlib's own font lacks.
    """
    import matplotlib
    from matplotlib.figure import Figure

    heads, rows, columns = item.weights.shape
    across = min(heads, 4)
    down = -(-heads // across)
    cell = min(CELL, WIDEST / across / columns)
    size = max(1.4, cell * columns), max(0.8, cell * rows)
    left, bottom = (GAP + max(map(_width, labels)) for labels in (item.rows, item.columns))
    title = title_of(item)
    width = max(left + across * (size[0] + GAP), 2 * GAP + 0.09 * len(title))
    shape = width, bottom + down * (size[1] + GAP + TITLE) + TITLE
    with matplotlib.rc_context({"font.family": [OWN_FONT, *fonts]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # `fonts_for` has said so
        figure = Figure(shape)
        figure.text(GAP / shape[0], 1 - GAP / 2 / shape[1], title, va="top", fontsize=9)
        for head in range(heads):
            x = left + head % across * (size[0] + GAP)
            y = bottom + (down - 1 - head // across) * (size[1] + GAP + TITLE)
            axes = figure.add_axes((x / shape[0], y / shape[1], size[0] / shape[0], size[1] / shape[1]))
            _draw_head(axes, item, head)
            # The tokens are the same for all heads: they are named once a row and once a column of panels.
            _name_ticks(axes.xaxis, item.columns if head + across >= heads else [], size[0], rotation=90)
            _name_ticks(axes.yaxis, item.rows if head % across == 0 else [], size[1])
        figure.savefig(path, dpi=110)


def _draw_head(axes: Any, item: WeightMap, head: int) -> None:
    weights = item.weights[head]
    most = float(weights.max())
    scale = max(most, LEAST_SCALE / weights.shape[1])
    axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=scale, aspect="auto")
    name = f"head {head}, " if len(item.weights) > 1 else ""
    axes.set_title(f"{name}up to {most:.2f} and {times_even(weights):.1f}/n", fontsize=7, pad=2)
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")


def times_even(weights: torch.Tensor) -> float:
    """The largest weight (Q, K) in units of 1/n, where n is the number of columns that its row sees: 1 is even."""
    return float((weights * (weights > 0).sum(-1, keepdim=True)).max())


def _name_ticks(axis: Any, labels: Sequence[str], size: float, **options: Any) -> None:
    """Labels an axis of `size` inches with as many of the labels as fit, evenly."""
    step = math.ceil(len(labels) * LETTERS * 1.1 / 72 / size)
    places = range(0, len(labels), max(step, 1))
    axis.set_ticks(places, [fit(labels[place]) for place in places], fontsize=LETTERS, **options)


def _width(label: str) -> float:
    """About how many inches a label takes: signs of East Asia are as wide as two others."""
    units = sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in fit(label))
    return units * 0.62 * LETTERS / 72


def title_of(item: WeightMap) -> str:
    """The title of a map's picture."""
    place = [] if item.layer is None else [f"layer {item.layer}"]
    return f"{item.name}: {', '.join([*place, *([item.kind] if item.kind else [])])}"


def file_name(item: WeightMap) -> str:
    """The file name of a map's picture."""
    place = "" if item.layer is None else f"-layer-{item.layer}"
    return f"{re.sub('[^a-z]+', '-', item.name).strip('-')}{place}.png"


def fit(label: str) -> str:
    """A label that leaves room for the picture, in which nothing is read as mathematics."""
    label = label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"
    return label.replace("$", r"\$")


def fonts_for(labels: Iterable[str]) -> list[str]:
    """Names of installed fonts that have what matplotlib's own lacks; a warning names what none has."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    missing = {ord(sign) for label in labels for sign in fit(label)}
    missing -= FT2Font(font_manager.findfont(OWN_FONT)).get_charmap().keys()
    names = []
    for path in sorted(font_manager.findSystemFonts()) if missing else []:
        try:
            font = FT2Font(path)
            found = missing & font.get_charmap().keys()
        except (OSError, RuntimeError):  # no font that matplotlib reads
            continue
        if found:
            font_manager.fontManager.addfont(path)  # its list may be older than the font
            names.append(font.family_name)
            missing -= found
    if missing:
        logger.warning_once(FONT_ADVICE.format(signs=_signs(missing)))  # pyright: ignore[reportAttributeAccessIssue] transformers adds it
    return names


def _signs(codes: Iterable[int], most: int = 8) -> str:
    signs: Sequence[str] = [chr(code) for code in sorted(codes)]
    return " ".join(signs[:most]) + (f" and {len(signs) - most} more" if len(signs) > most else "")
