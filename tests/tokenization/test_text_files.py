"""Reading documents from files and folders."""

import json

import pytest

from trine.tokenization.text_files import find_text_files, iterate_text_files


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_bytes("\ufeffzweite\r\nZeile".encode())
    (tmp_path / "deep" / "a.md").write_text("# first", encoding="utf-8")
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"text": "one"}) + "\n\n" + json.dumps({"text": " \n"}) + "\n" + json.dumps({"text": "二"}) + "\n",
        encoding="utf-8",
    )
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_documents_of_a_folder(folder):
    assert list(iterate_text_files([folder])) == ["zweite\nZeile", "one", "二", "# first"]


def test_a_file_named_twice_is_read_once(folder):
    assert find_text_files([folder / "c.jsonl", folder / "b.txt", folder]) == [
        folder / "c.jsonl",
        folder / "b.txt",
        folder / "deep" / "a.md",
        folder / "empty.txt",
    ]


def test_text_field(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "here"}\n')
    assert list(iterate_text_files([tmp_path], text_field="body")) == ["here"]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("absent.txt", None, FileNotFoundError, "does not exist"),
        ("a.pdf", b"text", ValueError, r"does not end in one of \['.txt'"),
        ("a.txt", b"\xff\xfe", ValueError, "a.txt' is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text"', ValueError, "Line 2 of .*a.jsonl' is not JSON"),
        ("a.jsonl", b'{"body": "x"}', ValueError, r"text_field='text': it has \['body'\]"),
        ("a.jsonl", b'{"text": 3}', ValueError, "Line 1 .* has no string"),
        ("a.jsonl", b'["x"]', ValueError, "it has a list"),
    ],
)
def test_errors(tmp_path, name, content, error, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        list(iterate_text_files([tmp_path / name]))


def test_errors_of_the_list(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no file that ends in"):
        find_text_files([tmp_path])
    with pytest.raises(ValueError, match="No text files"):
        find_text_files([])
    with pytest.raises(TypeError, match="is one path"):
        find_text_files("a.txt")
