"""Writes a page of HTML that shows a model's weights and loads nothing."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .attention import CROSS_ATTENTION, SECOND_KEYS, WeightMap
from .copies import COPIES


TEMPLATES = Path(__file__).parent / "templates"
PLACE = "{{ data }}"
# What the rows and the columns of a view are, by the end of its name.
CAPTIONS = {
    "attention": ("A token", "What it looks at"),
    SECOND_KEYS: ("A token", "The second keys that it looks at"),
    CROSS_ATTENTION: ("A token that the decoder has read", "What it looks at in the source"),
    "alignment": ("A token of the target", "The tokens of the source that it was made from, by the mean of all heads"),
    COPIES: (
        "A token of the target, with p_gen, the share of the vocabulary",
        "The tokens of the source that it copies",
    ),
    "experts": ("A token", "The experts that it visits"),
    "by tag": ("The words with a tag, and how many pieces they have", "The experts' shares of their visits"),
}


def write_page(maps: Sequence[WeightMap], title: str, notes: Sequence[str], path: Path) -> None:
    """Writes a page that shows the maps, grouped by their names, under a title and lines of notes."""
    data = {"title": title, "notes": [*notes], "second": SECOND_KEYS, "views": views_of(maps)}
    fill("inspection.html", data, path)


def fill(template: str, data: dict[str, Any], path: Path) -> None:
    """Writes a page: a template with its data."""
    # What a token says must not end the element that holds it.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    before, after = (TEMPLATES / template).read_text(encoding="utf-8").split(PLACE)
    path.write_text(before + text + after, encoding="utf-8")


def views_of(maps: Sequence[WeightMap]) -> list[dict[str, Any]]:
    """A view for each name, with its layers: weights are float32, little-endian, in base64."""
    views: dict[str, dict[str, Any]] = {}
    for item in maps:
        captions = next(texts for end, texts in reversed(CAPTIONS.items()) if item.name.endswith(end))
        labels = {"captions": captions, "rows": item.rows, "columns": item.columns}
        view = views.setdefault(item.name, {"name": item.name, **labels, "layers": []})
        layer = {"layer": item.layer, "kind": item.kind, "heads": len(item.weights)}
        numbers = item.weights.numpy().astype("<f4").tobytes()
        view["layers"].append({**layer, "weights": base64.b64encode(numbers).decode()})
    return list(views.values())
