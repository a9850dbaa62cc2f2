"""Answers that are known: what a request would certainly get again, in memory or in a file."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging

from trine.scripts.serving.metrics import Metrics


logger = logging.get_logger(__name__)

FILE = "responses.sqlite"
VERSION = 1  # of the table
TABLE = """
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value BLOB NOT NULL, used INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON answers (used);
"""
OVERHEAD = 128  # bytes of a row beside its value, about


class ResponseCache:
    """Keeps answers by their keys, those used last, in a table of SQLite.

    With a folder they are in a file there, which is whole after the process was killed. Where the file fails later,
    such as on a full disk, a warning says so, and requests are answered without it.

    Args:
        max_bytes: Of all answers.
        metrics: Counts hits and misses.
        folder: Where the file is; None to keep them in memory.

    Raises:
        OSError: The file cannot be opened or is none of this cache.
    """

    def __init__(self, max_bytes: int, metrics: Metrics | None = None, folder: str | Path | None = None):
        self.max_bytes, self.metrics = max_bytes, metrics
        self._lock = threading.Lock()
        if metrics is not None:
            metrics.watch_cache("response", lambda: self.bytes)
        path = ":memory:"
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            path = str(Path(folder) / FILE)
        try:
            self._open(path)
        except sqlite3.Error as error:
            raise OSError(f"response_cache_dir: '{path}' cannot be used: {error}. Remove it to begin anew.") from error

    def _open(self, path: str) -> None:
        self._data = sqlite3.connect(path, timeout=10, check_same_thread=False, isolation_level=None)
        self._data.execute("PRAGMA journal_mode=WAL")
        self._data.execute("PRAGMA synchronous=NORMAL")
        version = self._data.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise sqlite3.DatabaseError(f"it was written by version {version} of this cache, which reads {VERSION}")
        self._data.executescript(TABLE)
        self._data.execute(f"PRAGMA user_version={VERSION}")
        query = "SELECT count(*), coalesce(sum(length(value)), 0), coalesce(max(used), 0) FROM answers"
        rows, size, self._clock = self._data.execute(query).fetchone()
        self.bytes = size + rows * OVERHEAD

    def __len__(self) -> int:
        """The number of answers."""
        with self._lock:
            return self._data.execute("SELECT count(*) FROM answers").fetchone()[0]

    def get(self, keys: Iterable[bytes], name: str = "response") -> list[bytes | None]:
        """The answers of some keys, None for those that are not known."""
        keys, found = [*keys], []
        with self._lock, telling_failures():
            found += [self._get(key) for key in keys]
        found += [None] * (len(keys) - len(found))
        if self.metrics is not None:
            hits = sum(value is not None for value in found)
            self.metrics.cache(name, hits, len(found) - hits)
        return found

    def _get(self, key: bytes) -> bytes | None:
        row = self._data.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        self._clock += 1
        self._data.execute("UPDATE answers SET used = ? WHERE key = ?", (self._clock, key))
        return row[0]

    def put(self, answers: Mapping[bytes, bytes]) -> None:
        """Keeps answers, and drops those used longest ago where the room ends."""
        with self._lock, telling_failures():
            self._data.execute("BEGIN IMMEDIATE")
            try:
                for key, value in answers.items():
                    if len(value) + OVERHEAD <= self.max_bytes:
                        self._put(key, value)
            finally:
                self._data.execute("COMMIT")

    def _put(self, key: bytes, value: bytes) -> None:
        self._clock += 1
        old = self._data.execute("SELECT length(value) FROM answers WHERE key = ?", (key,)).fetchone()
        self.bytes += len(value) + OVERHEAD - (0 if old is None else old[0] + OVERHEAD)
        self._data.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, value, self._clock))
        while self.bytes > self.max_bytes:
            query = "SELECT key, length(value) FROM answers ORDER BY used LIMIT 1"
            oldest = self._data.execute(query).fetchone()
            if oldest is None:
                self.bytes = 0  # another server has dropped them
                break
            self._data.execute("DELETE FROM answers WHERE key = ?", (oldest[0],))
            self.bytes -= oldest[1] + OVERHEAD

    def clear(self) -> int:
        """Drops everything. Returns how many answers that were."""
        with self._lock:
            count = self._data.execute("DELETE FROM answers").rowcount
            self.bytes = 0
        return count

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._data.close()


@contextmanager
def telling_failures() -> Iterator[None]:
    """Turns an error of the file into a warning."""
    try:
        yield
    except sqlite3.Error as error:
        logger.warning(f"The response cache fails, and the request is answered without it: {error}.")


def key_of(*parts: Any) -> bytes:
    """SHA-256 of values as JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()
