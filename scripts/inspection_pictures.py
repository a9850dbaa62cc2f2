"""Pictures of what a model looks at: a panel for each head, in one file a layer."""

import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trine.generation.attention_maps import WeightMap


OWN_FONT = "DejaVu Sans"
PLACEHOLDER = "Last Resort"  # has a box for every sign
LONGEST_LABEL = 14  # characters
FONT_ADVICE = (
    "No installed font has {signs}: pictures show boxes in their place (the page does not). On Debian: "
    "apt-get install fonts-noto-cjk."
)


def draw_map(item: WeightMap, path: Path, fonts: Sequence[str] = ()) -> None:
    """The weights of each head as a heat map, as PNG. Each panel has a scale of its own, up to the weight it names.

    `fonts` are those of signs that matplotlib's own font lacks.
    """
    import matplotlib
    from matplotlib.figure import Figure

    heads, rows, columns = item.weights.shape
    across = min(heads, 4)
    cell = 0.22 if rows <= 40 else 0.12
    width, height = 1.2 + cell * max(columns, 6), 1.5 + cell * max(rows, 4)
    with matplotlib.rc_context({"font.family": [OWN_FONT, *fonts]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # `fonts_for` has said so
        figure = Figure(figsize=(across * width, -(-heads // across) * height + 0.5), layout="constrained")
        figure.suptitle(title_of(item))
        for head in range(heads):
            axes = figure.add_subplot(-(-heads // across), across, head + 1)
            _draw_head(axes, item, head, 7 if rows <= 40 else 5)
        figure.savefig(path, dpi=110, bbox_inches="tight")


def _draw_head(axes: Any, item: WeightMap, head: int, size: int) -> None:
    weights = item.weights[head].numpy()
    most = float(weights.max())
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=most or 1, aspect="auto" if len(item.columns) < 6 else "equal")
    axes.set_title(f"head {head}, up to {most:.2f}" if len(item.weights) > 1 else f"up to {most:.2f}", fontsize=8)
    axes.set_xticks(range(len(item.columns)), [shorten(text) for text in item.columns], rotation=90, fontsize=size)
    axes.set_yticks(range(len(item.rows)), [shorten(text) for text in item.rows], fontsize=size)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")


def title_of(item: WeightMap) -> str:
    place = [] if item.layer is None else [f"layer {item.layer}"]
    return f"{item.name}: {', '.join([*place, *([item.kind] if item.kind else [])])}"


def file_name(item: WeightMap) -> str:
    place = "" if item.layer is None else f"-layer-{item.layer}"
    return f"{re.sub('[^a-z]+', '-', item.name).strip('-')}{place}.png"


def shorten(label: str) -> str:
    """A label that leaves room for the picture, in which nothing is read as mathematics."""
    label = label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"
    return label.replace("$", r"\$")


def fonts_for(labels: Iterable[str]) -> list[str]:
    """Names of installed fonts that have what matplotlib's own lacks; a warning names what none has."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    missing = {ord(sign) for label in labels for sign in shorten(label)}
    missing -= FT2Font(font_manager.findfont(OWN_FONT)).get_charmap().keys()
    names = []
    for entry in font_manager.fontManager.ttflist if missing else []:
        if entry.name.startswith(PLACEHOLDER):
            continue
        try:
            found = missing & FT2Font(entry.fname).get_charmap().keys()
        except (OSError, RuntimeError):  # a file that is no longer there, or no font
            continue
        if found and entry.name not in names:
            names.append(entry.name)
            missing -= found
    if missing:
        warnings.warn(FONT_ADVICE.format(signs=_signs(missing)), stacklevel=2)
    return names


def _signs(codes: Iterable[int], most: int = 8) -> str:
    signs: Sequence[str] = [chr(code) for code in sorted(codes)]
    return " ".join(signs[:most]) + (f" and {len(signs) - most} more" if len(signs) > most else "")
