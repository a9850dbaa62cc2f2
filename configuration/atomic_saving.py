"""Saves so that a folder holds the old model or the new one, whole, whenever the process is killed.

A model is several files, and only a single one can be replaced at once. So all are written to a hidden folder within
the folder first. Then `config.json` is replaced, by the new one with a field that names the weights in the hidden
folder (`transformers_weights`, which transformers reads and never saves): from that moment on it is the new model. At
last the files take their usual places, and `config.json` loses the field. The next saving finishes or removes what a
killed one left.

Nothing is forced to the disk: a process that is killed is provided for, a machine that loses its power is not.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


try:
    import fcntl
except ImportError:  # of Windows; there nobody is asked who else is saving
    fcntl = None

HIDDEN = ".saving-"  # how the name of a hidden folder begins
CONFIG, POINTER = "config.json", "transformers_weights"
POINTED_INDEX = "pointed.safetensors.index.json"  # the index of the weights in a hidden folder, seen from outside
# What belongs together: `model` of `model-00001-of-00002.safetensors` and of `model.safetensors.index.json`.
WEIGHTS = re.compile(r"(.+?)(-\d{5}-of-\d{5})?\.safetensors")
INDEX = re.compile(r"(.+?)\.safetensors\.index(\..+)?\.json")


class FolderLock:
    """A lock of an open folder, which ends with its process. It leaves no file."""

    def __init__(self, folder: Path):
        self.file = os.open(folder, os.O_RDONLY) if fcntl else None

    def take(self, shared: bool = False, wait: bool = False) -> bool:
        """Takes the lock and returns whether it was free; always True on file systems without locks."""
        if fcntl is None or self.file is None:
            return True
        try:
            fcntl.flock(self.file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
        return True

    def close(self) -> None:
        """Closes the folder, which releases the lock."""
        if self.file is not None:
            os.close(self.file)


@contextmanager
def locked(folder: Path) -> Iterator[FolderLock]:
    """Opens a lock of a folder, not yet taken, and closes it at the end."""
    lock = FolderLock(folder)
    try:
        yield lock
    finally:
        lock.close()


@contextmanager
def saving(folder: Path) -> Iterator[Path]:
    """Yields a hidden folder, whose files take their places in `folder` at the end, all or none of them.

    Weights of the same name that are not among the new ones, such as surplus shards, are removed. Other files stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as lock:
        if lock.take():  # nobody else is saving here
            finish_killed(folder)
        lock.take(shared=True, wait=True)
        made = folder / f"{HIDDEN}{uuid4().hex[:8]}"
        made.mkdir()
        try:
            yield made
            lock.take(wait=True)
            if (folder / CONFIG).is_file() and (made / CONFIG).is_file() and any(map(family, os.listdir(made))):
                point(folder, made)
            place(folder, made)
        finally:
            if pointed(folder) != made.name:
                shutil.rmtree(made, ignore_errors=True)


def finish_killed(folder: Path) -> None:
    """Finishes a saving that was killed after its model had become the current one; removes what others left."""
    for made in sorted(folder.glob(f"{HIDDEN}*")):
        if pointed(folder) == made.name:
            place(folder, made)
        shutil.rmtree(made, ignore_errors=True)


def family(name: str) -> str | None:
    """The name that all shards and the index of a file's weights share, with their variant; None for other files."""
    if found := INDEX.fullmatch(name):
        return found[1] + (found[2] or "")
    found = WEIGHTS.fullmatch(name)
    return found and found[1]


def pointed(folder: Path) -> str | None:
    """The hidden folder with the current weights, or None if they are in their usual place."""
    try:
        fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = str(fields.get(POINTER)).partition("/")[0] if isinstance(fields, dict) else ""
    return name if name.startswith(HIDDEN) else None


def point(folder: Path, made: Path) -> None:
    """Makes the weights in `made` the current ones by replacing `config.json`, an atomic step."""
    index = next((path for path in made.iterdir() if INDEX.fullmatch(path.name)), None)
    if index is None:
        weights = next(path.name for path in made.iterdir() if WEIGHTS.fullmatch(path.name))
    else:
        weights, content = POINTED_INDEX, json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] = {name: f"{made.name}/{file}" for name, file in content["weight_map"].items()}
        (made / weights).write_text(json.dumps(content), encoding="utf-8")
    fields = json.loads((made / CONFIG).read_text(encoding="utf-8"))
    pointer = made / f"{CONFIG}.pointer"
    pointer.write_text(json.dumps({**fields, POINTER: f"{made.name}/{weights}"}, indent=2) + "\n", encoding="utf-8")
    pointer.replace(folder / CONFIG)


def place(folder: Path, made: Path) -> None:
    """Puts the files of `made` into their usual places, the config last. It can be done again after a kill.

    Weights that `config.json` points to stay readable where they are: they get a second name.
    """
    is_pointed = pointed(folder) == made.name
    files = [path for path in made.iterdir() if path.is_file() and path.name not in (CONFIG, POINTED_INDEX)]
    files = [path for path in files if path.suffix not in (".pointer", ".copy")]
    for path in files:
        put(path, folder / path.name, keep=is_pointed and family(path.name) is not None)
    families, names = {family(path.name) for path in files} - {None}, {path.name for path in files}
    for name in os.listdir(folder):
        if family(name) in families and name not in names:
            (folder / name).unlink()
    if (made / CONFIG).is_file():
        (made / CONFIG).replace(folder / CONFIG)


def put(path: Path, target: Path, keep: bool) -> None:
    """Replaces `target` by a file at once, which also keeps its former name if `keep`."""
    if keep:
        copy = path.with_name(f"{path.name}.copy")
        copy.unlink(missing_ok=True)
        try:
            os.link(path, copy)
        except OSError:  # a file system without second names
            shutil.copyfile(path, copy)
        path = copy
    path.replace(target)
