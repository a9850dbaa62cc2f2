"""Folders of a cache: complete or absent, checked when they are found, even after a process was killed.

Several processes, also of several users, may share a cache.
"""

import hashlib
import json
import shutil
import time
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME
from transformers.utils import logging


try:
    import fcntl
except ImportError:  # Windows: what a killed process left stays until somebody removes it
    fcntl = None


logger = logging.get_logger(__name__)

DEFAULT_CACHE = Path(HF_HOME) / "trine"
# Part of each key: what is stored has another layout or meaning after a change.
VERSION = 4
# The sizes and checksums of the files of a whole folder, written last.
INDEX = "index.json"
# Held, by the system's file locks, for as long as the process lives that makes the folder it is in.
LOCK = ".lock"
UNFINISHED = "part-"
WITHOUT_LOCK = 3600  # seconds after which a folder that has none is nobody's
_READ_SIZE = 2**22

_own: dict[Path, Any] = {}  # unfinished folders of this process, with their open locks


def find_or_make(cache: Path, key: dict[str, Any], make: Callable[[Path], object]) -> Path:
    """The folder of the cache for a key; if there is none, `make` fills a new one.

    It appears under its name when it is complete. One whose files have changed is made anew, with a warning. Remains
    of killed processes are removed first. Permissions are those of the umask, so that others may read the cache where
    it lets them.

    Raises:
        OSError: The cache cannot be written, besides the errors of `make`.
    """
    text = json.dumps({"version": VERSION, **key}, sort_keys=True, default=str)
    folder = cache / hashlib.sha256(text.encode()).hexdigest()[:32]
    if folder.exists():
        if (reason := damage(folder)) is None:
            return folder
        logger.warning(f"What is kept in '{folder}' is damaged: {reason}. It is made anew.")
        _discard(folder)
    part = _open_part(cache)
    try:
        make(part)
        _write_index(part)
        (part / LOCK).unlink()
        part.rename(folder)
    except OSError:
        if damage(folder) is not None:  # else another process was faster
            raise
    finally:
        _remove(part)
    return folder


def damage(folder: Path) -> str | None:
    """The reason why a folder's files are not those that were written; None if they are."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        for name, (size, checksum) in index.items():
            found = (folder / name).stat().st_size
            if found != size:
                return f"'{name}' has {found} bytes instead of {size}"
            if checksum_of(folder / name) != checksum:
                return f"'{name}' has another content than was written"
    except FileNotFoundError as error:
        return f"'{Path(error.filename).name}' is missing"
    except (ValueError, TypeError, AttributeError):
        return f"'{INDEX}' cannot be read"
    return None if index else f"'{INDEX}' names no file"


def checksum_of(file: Path) -> int:
    """The CRC-32 of a file."""
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(_READ_SIZE):
            checksum = zlib.crc32(block, checksum)
    return checksum


def remove_stale(cache: Path) -> None:
    """Removes the unfinished folders of processes that have ended; those of others stay."""
    for folder in cache.glob(f"{UNFINISHED}*"):
        if folder not in _own and _is_stale(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_stale(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("r+b") as lock:
            if fcntl is not None:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fcntl is not None
    except FileNotFoundError:  # a process died in the moment before the lock, or after it, or is there now
        return folder.exists() and time.time() - folder.stat().st_mtime > WITHOUT_LOCK
    except OSError:  # held by a living process, or another user's
        return False


def _open_part(cache: Path) -> Path:
    """A new folder, whose lock this process holds."""
    part = cache / f"{UNFINISHED}{uuid.uuid4().hex[:12]}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        remove_stale(cache)
        part.mkdir()
        lock = (part / "new").open("wb")
    except OSError as error:
        raise OSError(f"cache_dir='{cache}' cannot be written: {error.strerror}. Choose another.") from error
    if fcntl is not None:
        # A lock of the process, which children do not inherit: those of a killed one may live on for a while.
        fcntl.lockf(lock, fcntl.LOCK_EX)
    (part / "new").rename(part / LOCK)
    _own[part] = lock
    return part


def _write_index(folder: Path) -> None:
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    index = {name: (file.stat().st_size, checksum_of(file)) for name, file in files.items() if name != LOCK}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def _remove(part: Path) -> None:
    """Removes what is still there under this name, and gives up its lock."""
    shutil.rmtree(part, ignore_errors=True)
    _own.pop(part).close()


def _discard(folder: Path) -> None:
    """Takes a folder out of the way; who has its files open keeps them."""
    away = folder.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:12]}")
    try:
        folder.rename(away)
    except FileNotFoundError:  # another process was faster
        return
    except OSError as error:
        raise OSError(f"The damaged '{folder}' cannot be removed: {error.strerror}.") from error
    shutil.rmtree(away, ignore_errors=True)
