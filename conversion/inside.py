"""Reads files of a checkpoint with clear errors, and follows the names in them only within its folder."""

import json
from pathlib import Path
from typing import Any

from ..modeling.checks.checkpoints import is_inside


def read_fields(path: Path) -> dict[str, Any]:
    """The fields of a JSON file.

    Raises:
        OSError: It is damaged, or holds something else.
    """
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise OSError(f"{path} is damaged: it holds {type(fields).__name__}, not fields.")
    return fields


def read_json(path: Path) -> Any:
    """The content of a JSON file; an `OSError` if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise OSError(f"{path} is damaged: {error!r}") from error


def follow(folder: Path, name: Any, where: str) -> Path:
    """The file or folder that the file `where` of a checkpoint names.

    Raises:
        OSError: It lies outside of `folder`, by its name or through a link.
    """
    if not is_inside(name):
        raise OSError(f"{folder / where} names {name!r}, which lies outside of the folder.")
    return check_links(folder, folder / name)


def check_links(folder: Path, path: Path) -> Path:
    """`path`, unless it or a file below it is a link that leads out of `folder`: then an `OSError` names it.

    In the Hub's cache all files of a repository are links to its folder `blobs`; these are fine.
    """
    allowed = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        allowed.append(folder.resolve().parents[1] / "blobs")
    for each in [path, *(path.rglob("*") if path.is_dir() else ())]:
        if not any(each.resolve().is_relative_to(place) for place in allowed):
            raise OSError(f"{each} is a link that leads out of {folder}. Put a copy of the file there.")
    return path
