"""Lists the files that paths name, and warns of files in folders that are left out."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from transformers.utils import logging

from .record_files import BY_NAME_ONLY, ending_of


logger = logging.get_logger(__name__)

_KINDS_SHOWN = 6


def find_files(paths: Iterable[str | Path], endings: Iterable[str]) -> list[Path]:
    """The files that `paths` name, in order and once each; a folder stands for its readable files, at any depth.

    Hidden files and folders, whose names begin with a point, are left out, as are `BY_NAME_ONLY` and what has another
    ending; a warning of one line says how many. A folder that `datasets.Dataset.save_to_disk` wrote stands for itself.

    Raises:
        TypeError: `paths` is one string.
        FileNotFoundError: A path does not exist, or a folder holds no readable file.
        ValueError: No path at all, a file whose ending is not among `endings`, or a folder of several splits.
    """
    if isinstance(paths, (str, Path)):
        raise TypeError(f"paths={str(paths)!r} is one path; pass a list of paths.")
    endings = list(endings)
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir() and not (path / "state.json").exists():
            found = _search(path, endings)
        elif not path.exists():
            raise FileNotFoundError(f"The file or folder '{path}' does not exist.")
        elif path.is_file() and ending_of(path) not in endings:
            raise ValueError(f"The file '{path}' does not end in one of {endings}.")
        else:
            found = [path]
        files.update(dict.fromkeys(found))
    if not files:
        raise ValueError("No files are named.")
    return list(files)


def _search(folder: Path, endings: list[str]) -> list[Path]:
    """The readable files of a folder, sorted."""
    if (folder / "dataset_dict.json").exists():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        raise ValueError(
            f"The folder '{folder}' holds several splits: name one of them, such as {folder}/{splits[0]}."
        )
    searched = [ending for ending in endings if ending not in BY_NAME_ONLY]
    found, left_out = [], Counter()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            left_out["hidden"] += 1
        elif ending_of(file) not in searched:
            left_out[ending_of(file) or "without an ending"] += 1
        else:
            found.append(file)
    message = _describe(folder, left_out, endings)
    if not found:
        raise FileNotFoundError(
            f"The folder '{folder}' holds no file that ends in one of {searched}. {message}".strip()
        )
    if message:
        logger.warning_once(message)  # pyright: ignore[reportAttributeAccessIssue] transformers adds it
    return found


def _describe(folder: Path, left_out: Counter[str], endings: list[str]) -> str:
    if not left_out:
        return ""
    shown = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))[:_KINDS_SHOWN]
    kinds = [f"{count} {kind}" for kind, count in shown]
    rest = left_out.total() - sum(count for _, count in shown)
    advice = [
        f"{kind} is read where the file is named" for kind in BY_NAME_ONLY if kind in left_out and kind in endings
    ]
    kinds = [*kinds, *([f"{rest} others"] if rest else [])]
    return "; ".join([f"{left_out.total()} files of '{folder}' are left out: {', '.join(kinds)}", *advice]) + "."
