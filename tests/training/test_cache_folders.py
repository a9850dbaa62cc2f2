"""What is found in a cache is whole, or made anew; nothing of a killed process stays; others may read it."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from trine.training.data import cache_folders
from trine.training.data.cache_folders import INDEX, LOCK, WITHOUT_LOCK, find_or_make


def fill(folder):
    (folder / "deep").mkdir()
    (folder / "file").write_bytes(b"whole")
    (folder / "deep" / "other").write_bytes(bytes(range(256)) * 40)


def test_what_was_made_is_found_again(tmp_path):
    made = []

    def make(folder):
        (folder / "file").write_text("whole")
        made.append(folder)

    first = find_or_make(tmp_path, {"a": 1}, make)
    assert find_or_make(tmp_path, {"a": 1}, make) == first and len(made) == 1
    assert (first / "file").read_text() == "whole"
    assert find_or_make(tmp_path, {"a": 2}, make) != first and len(made) == 2


def test_nothing_half_made_is_found(tmp_path):
    def fail(folder):
        (folder / "file").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        find_or_make(tmp_path, {"a": 1}, fail)
    assert list(tmp_path.iterdir()) == []


def test_the_faster_process_wins(tmp_path):
    def make(folder):
        find_or_make(tmp_path, {"a": 1}, lambda other: (other / "file").write_text("first"))
        (folder / "file").write_text("second")

    assert (find_or_make(tmp_path, {"a": 1}, make) / "file").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


DAMAGES = {
    "cut": lambda folder: (folder / "deep" / "other").write_bytes(bytes(range(256)) * 39),
    "random": lambda folder: (folder / "deep" / "other").write_bytes(bytes(10240)),
    "flipped": lambda folder: (folder / "file").write_bytes(b"whale"),
    "missing": lambda folder: (folder / "file").unlink(),
    "empty": lambda folder: (folder / "file").write_bytes(b""),
    "no index": lambda folder: (folder / INDEX).unlink(),
    "empty index": lambda folder: (folder / INDEX).write_bytes(b""),
    "index of nothing": lambda folder: (folder / INDEX).write_bytes(b"{}"),
    "index of other things": lambda folder: (folder / INDEX).write_bytes(b'["file"]'),
    "index without numbers": lambda folder: (folder / INDEX).write_bytes(b'{"file": "x"}'),
    "index that is no text": lambda folder: (folder / INDEX).write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_anew(tmp_path, caplog, damage):
    folder = find_or_make(tmp_path, {"a": 1}, fill)
    DAMAGES[damage](folder)
    with caplog.at_level(logging.WARNING):
        assert find_or_make(tmp_path, {"a": 1}, fill) == folder
    (message,) = [record.getMessage() for record in caplog.records]
    assert str(folder) in message and message.endswith("It is made anew.") and "\n" not in message
    assert (folder / "file").read_bytes() == b"whole" and [*tmp_path.iterdir()] == [folder]
    caplog.clear()
    find_or_make(tmp_path, {"a": 1}, lambda _: pytest.fail("it is whole"))
    assert not caplog.records


KILLED = """
import sys, time
from pathlib import Path
from trine.training.data.cache_folders import find_or_make
def make(folder):
    (folder / "tokens").write_bytes(b"half")
    print(folder, flush=True)
    time.sleep(600)
find_or_make(Path(sys.argv[1]), {"a": 1}, make)
"""


def test_what_a_killed_process_leaves_goes_with_the_next(tmp_path):
    """While it lives, its folder stays."""
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            half = process.stdout.readline().strip()
            find_or_make(tmp_path, {"a": 2}, fill)
            assert half in map(str, tmp_path.iterdir())
        finally:
            process.send_signal(signal.SIGKILL)
        process.wait()
    folders = {find_or_make(tmp_path, {"a": number}, fill) for number in (2, 3)}
    assert {*tmp_path.iterdir()} == folders


def test_a_folder_without_a_lock_is_old_before_it_goes(tmp_path):
    """Its process may be about to lock it."""
    young, old = tmp_path / "part-young", tmp_path / "part-old"
    for folder in (young, old):
        folder.mkdir()
    os.utime(old, times=(0, time.time() - WITHOUT_LOCK - 60))
    find_or_make(tmp_path, {"a": 1}, fill)
    assert young.exists() and not old.exists()


@pytest.mark.parametrize(("umask", "folder_mode", "file_mode"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640)])
def test_others_may_read_what_the_umask_lets_them(tmp_path, umask, folder_mode, file_mode):
    before = os.umask(umask)
    try:
        folder = find_or_make(tmp_path / "cache", {"a": 1}, fill)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder, folder / "deep")] == [folder_mode] * 3
    assert [(folder / name).stat().st_mode & 0o777 for name in ("file", INDEX)] == [file_mode] * 2
    assert not (folder / LOCK).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_finds_what_root_made(tmp_path):
    """And may not write there: what is not found is refused by name."""
    folder = find_or_make(tmp_path / "cache", {"a": 1}, fill)
    for path in (tmp_path, *tmp_path.parents):  # which pytest keeps to its user
        if "pytest" in str(path):
            path.chmod(0o755)
    process = os.fork()
    if process == 0:  # only this child gives up its rights
        status = 1
        try:
            os.setuid(65534)
            found = find_or_make(tmp_path / "cache", {"a": 1}, fill) == folder
            try:
                find_or_make(tmp_path / "cache", {"a": 2}, fill)
            except OSError as error:
                status = 0 if found and "cannot be written: Permission denied" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/cache' cannot be written: Not a directory. Choose another."):
        find_or_make(tmp_path / "file" / "cache", {"a": 1}, fill)


def test_a_damaged_folder_that_another_process_has_removed(tmp_path, monkeypatch):
    folder = find_or_make(tmp_path, {"a": 1}, fill)
    (folder / "file").unlink()
    damage = cache_folders.damage

    def find_damage(path):
        reason = damage(path)
        if path == folder and reason is not None and folder.exists():
            folder.rename(tmp_path / "gone")
        return reason

    monkeypatch.setattr(cache_folders, "damage", find_damage)
    assert find_or_make(tmp_path, {"a": 1}, fill) == folder and (folder / "file").exists()


def test_a_damaged_folder_that_cannot_be_removed(tmp_path, monkeypatch):
    folder = find_or_make(tmp_path, {"a": 1}, fill)
    (folder / "file").unlink()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(folder), "rename", refuse)
    with pytest.raises(OSError, match="cannot be removed: Permission denied"):
        find_or_make(tmp_path, {"a": 1}, fill)
