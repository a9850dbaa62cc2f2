"""What of a folder is read, and the line that says what is not."""

import logging

import pytest

from trine.tokenization import source_files
from trine.tokenization.source_files import find_files


ENDINGS = [".txt", ".jsonl", ".jsonl.gz", ".json"]


@pytest.fixture(autouse=True)
def say_again():
    """What is said once in a process is said once in each test."""
    type(source_files.logger).warning_once.cache_clear()


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_hidden_files_and_other_kinds_are_left_out_in_one_line(tmp_path, caplog):
    folder = tmp_path / ".cache" / "texts"  # what leads to the folder may be hidden
    read = ["a.txt", "b/c.TXT", "b/d.jsonl.gz", "e.f.jsonl"]
    hidden = [".ipynb_checkpoints/a.txt", ".git/objects/b.txt", "b/.c.txt"]
    touch(folder, *read, *hidden, "g.json", "h.json", "i.pdf", "README", "j.gz")
    with caplog.at_level(logging.WARNING):
        assert find_files([folder], ENDINGS) == sorted(folder / name for name in read)
        find_files([folder], ENDINGS)
    assert [record.getMessage() for record in caplog.records] == [
        f"8 files of '{folder}' are left out: 3 hidden, 2 .json, 1 .gz, 1 .pdf, 1 without an ending; "
        ".json is read where the file is named."
    ]
    assert find_files([folder / "g.json", folder / ".git"], ENDINGS) == [
        folder / "g.json",
        folder / ".git" / "objects" / "b.txt",  # named, it is meant
    ]


def test_many_kinds(tmp_path, caplog):
    touch(tmp_path, "a.txt", *(f"{number}.k{number}" for number in range(9)))
    with caplog.at_level(logging.WARNING):
        find_files([tmp_path], ENDINGS)
    assert caplog.records[0].getMessage().endswith("1 .k5, 3 others.")


def test_nothing_is_said_where_nothing_is_left_out(tmp_path, caplog):
    touch(tmp_path, "a.txt")
    with caplog.at_level(logging.WARNING):
        find_files([tmp_path], ENDINGS)
    assert not caplog.records


def test_a_folder_of_nothing_else(tmp_path):
    touch(tmp_path, "a.json", ".b.txt")
    message = "ends in one of .*jsonl.gz'\\]. 2 files of .* are left out: 1 .json, 1 hidden; .json is read where"
    with pytest.raises(FileNotFoundError, match=message):
        find_files([tmp_path], ENDINGS)
