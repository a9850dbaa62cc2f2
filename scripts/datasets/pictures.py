"""Pictures with their labels, from the files of public packages. Nothing here uses the network."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trine.scripts.datasets.packages import read_archive
from trine.scripts.datasets.parsers import Record


CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def to_png(pixels: np.ndarray) -> bytes:
    """A PNG of grey values (height, width) from 0 to 255."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG", optimize=False)
    return file.getvalue()


def build_fashion(archive: Path) -> Iterator[tuple[str, Record]]:
    """Pictures of clothes from the files of the package, one for each class; a picture once, whose pixels are a group.

    The package's files end with an empty picture, which is left out.
    """
    files = read_archive(archive, lambda path: "/clothes/" in path and path.endswith(".json"))
    seen: set[bytes] = set()
    for path, data in sorted(files.items()):
        label = CLOTHES[int(Path(path).stem)]
        for row in json.loads(data)["data"]:
            pixels = bytes(row)
            if len(pixels) == 28 * 28 and pixels not in seen:
                seen.add(pixels)
                picture = np.frombuffer(pixels, dtype=np.uint8).reshape(28, 28)
                yield pixels.hex(), {"image": to_png(picture), "label": label}


def build_digits() -> Iterator[tuple[str, Record]]:
    """Written digits of 8 x 8 pixels, which come with scikit-learn; 16 shades become 256."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    for number, (pixels, label) in enumerate(zip(digits["images"], digits["target"], strict=True)):
        yield f"digit {number}", {"image": to_png(pixels * (255 / 16)), "label": str(label)}


def build_emoji(archive: Path) -> Iterator[tuple[str, Record]]:
    """Emoji of 64 x 64 pixels with names and categories, without variants of skin and without parts of others."""
    files = read_archive(archive, lambda path: path.endswith(("/emoji.json",)) or "/twitter/64/" in path)
    pictures = {path.rpartition("/")[2]: data for path, data in files.items() if path.endswith(".png")}
    (listed,) = (data for path, data in files.items() if path.endswith("emoji.json"))
    for entry in select_emoji(json.loads(listed), pictures):
        name = str(entry["name"]).lower()
        yield (
            name,
            {
                "image": pictures[str(entry["image"])],
                "name": name,
                "short_names": entry["short_names"],
                "label": entry["category"],
                "subcategory": entry["subcategory"],
            },
        )


def select_emoji(entries: Iterable[Mapping[str, object]], pictures: Mapping[str, bytes]) -> Iterator[Mapping]:
    """The emoji that stand by themselves and have a picture, a name once."""
    seen: set[str] = set()
    for entry in entries:
        name = str(entry["name"]).lower()
        if entry["category"] != "Component" and entry["image"] in pictures and name not in seen:
            seen.add(name)
            yield entry
