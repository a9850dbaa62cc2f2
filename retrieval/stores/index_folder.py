"""Saves an index so that a folder holds the old one or the new one, whole, whenever the process is killed.

Its files lie in a folder within, which `index.json` names; that is replaced at once, after all the rest is
on the disk. A lock lets one process write, or several read; it ends with its process.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from ...configuration.atomic_saving import locked


INDEX = "index.json"
FORMAT = 1
FILES = "files-"  # how the name of a folder of files begins


class Saved(NamedTuple):
    """An index as it was found: what `index.json` says, and where the files are."""

    settings: dict[str, Any]
    files: Path


def write_index(
    folder: Path,
    settings: Mapping[str, Any],
    writers: Mapping[str, Callable[[Path], None]],
    expected: str | None,
    overwrite: bool = False,
) -> str:
    """Writes an index in the place of that which the folder holds.

    Args:
        folder: Is made where it is not there.
        settings: What is to be found in `index.json`.
        writers: For the name of each file a function that writes it.
        expected: Name of the folder of files that should be there, or None if there should be no index.
        overwrite: Whether to replace whatever is there.

    Returns:
        Name of the new folder of files.

    Raises:
        ValueError: Another process has saved since then, or there is another index.
        OSError: The folder cannot be written. It is as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as lock:
        lock.take(wait=True)
        if expected is None and current_files(folder) is not None and not overwrite:
            raise ValueError(
                f"index='{folder}' holds another index, which was not loaded here; saving would lose that. Load it, "
                "name another folder, or save with overwrite=True."
            )
        if expected is not None and expected != current_files(folder) and not overwrite:
            raise ValueError(
                f"index='{folder}' was saved by another process since it was loaded here; saving would lose that. "
                "Load it again, and repeat the change."
            )
        made = folder / f"{FILES}{uuid4().hex[:8]}"
        made.mkdir()
        try:
            for name, write in writers.items():
                write(made / name)
                flush(made / name)
            sizes = {name: (made / name).stat().st_size for name in writers}
            content = {"format": FORMAT, "folder": made.name, "files": sizes, "settings": dict(settings)}
            unfinished = made / INDEX
            unfinished.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
            flush(unfinished)
            flush(made)
            unfinished.replace(folder / INDEX)
            flush(folder)
        finally:
            for path in folder.glob(f"{FILES}*"):
                if path.name != current_files(folder):
                    shutil.rmtree(path, ignore_errors=True)
    return made.name


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    file = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def index_size(folder: Path) -> int:
    """Bytes of an index: other files that the folder holds do not count."""
    files = [folder / INDEX, *(folder / str(current_files(folder))).rglob("*")]
    return sum(path.stat().st_size for path in files if path.is_file())


def current_files(folder: Path) -> str | None:
    """Name of the folder of files that `index.json` names; None where there is none that can be read."""
    try:
        return str(json.loads((folder / INDEX).read_text(encoding="utf-8"))["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def reading_index(folder: Path) -> Iterator[Saved]:
    """Finds an index, which nobody replaces until the end.

    Raises:
        FileNotFoundError: There is no index.
        ValueError: It is damaged, or of another version.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"index='{folder}' is not a folder. `trine index` makes one, or HybridSearch.save.")
    with locked(folder) as lock:
        lock.take(shared=True, wait=True)
        yield find_index(folder)


def find_index(folder: Path) -> Saved:
    """Reads `index.json`, and checks the sizes of the files; errors are those of `reading_index`."""
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        version, name = content["format"], content["folder"]
        sizes, settings = dict(content["files"]), dict(content["settings"])
    except FileNotFoundError:
        raise FileNotFoundError(
            f"index='{folder}' holds no {INDEX}: it is no index, or one that was never saved whole. `trine index` "
            "makes one, or HybridSearch.save."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(folder, f"{INDEX} cannot be read ({type(error).__name__}: {error})") from error
    if version != FORMAT:
        raise ValueError(f"index='{folder}' has format={version!r}; this version of trine reads format={FORMAT}.")
    for file, size in sizes.items():
        path = folder / str(name) / file
        if not path.is_file():
            raise damaged(folder, f"{name}/{file} is missing")
        if path.stat().st_size != size:
            raise damaged(folder, f"{name}/{file} has {path.stat().st_size:,} bytes and had {size:,}")
    return Saved(settings, folder / str(name))


def damaged(folder: Path, reason: str) -> ValueError:
    """The error for an index that cannot be used."""
    return ValueError(f"index='{folder}' is damaged: {reason}. Copy it again, or make it anew.")
