"""Reading documents from files, folders and data sets."""

import json

import pytest

from trine.tokenization import text_files
from trine.tokenization.records import BadRecords
from trine.tokenization.text_files import Piece, find_text_sources, iterate_pieces, iterate_text_files


def texts(sources, text_field="text") -> list[str]:
    return list(iterate_text_files(sources, text_field))


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
    assert texts([folder]) == ["zweite\nZeile", "one", "二", "# first"]


def test_a_file_named_twice_is_read_once(folder):
    assert find_text_sources([folder / "c.jsonl", folder / "b.txt", folder]) == [
        folder / "c.jsonl",
        folder / "b.txt",
        folder / "deep" / "a.md",
        folder / "empty.txt",
    ]


def test_text_field(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "here"}\n')
    assert texts([tmp_path], text_field="body") == ["here"]


def test_long_plain_texts_come_in_pieces_that_end_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "PIECE_SIZE", 10)
    (tmp_path / "a.txt").write_text("one two\nthree\nfour\n\nfive six seven\n")
    (tmp_path / "b.jsonl").write_text('{"text": "a line that is longer than a piece"}\n')
    pieces = list(iterate_pieces([tmp_path], "text", BadRecords()))
    assert pieces == [
        Piece(0, "one two\nthree\n"),
        Piece(0, "four\n\nfive six seven\n"),
        Piece(1, "a line that is longer than a piece"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("absent.txt", None, FileNotFoundError, "does not exist"),
        ("a.pdf", b"text", ValueError, r"does not end in one of \['.txt'"),
        (
            "a.txt",
            b"\xff\xfe",
            ValueError,
            "a.txt' is not UTF-8 text: line 1 has the byte 0xff at place 1.",
        ),
        ("a.jsonl", b'{"text": "x"}\n{"text"', ValueError, "a.jsonl', record 2: it is not JSON"),
        ("a.jsonl", b'{"body": "x"}', ValueError, r"the field 'text' is missing from \['body'\]"),
        ("a.jsonl", b'{"text": 3}', ValueError, "record 1: the field 'text' holds an int"),
        ("a.jsonl", b'["x"]', ValueError, "it is a list"),
    ],
)
def test_errors(tmp_path, name, content, error, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        texts([tmp_path / name])


def test_errors_of_the_list(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no file that ends in"):
        find_text_sources([tmp_path])
    with pytest.raises(ValueError, match="No files"):
        find_text_sources([])
    with pytest.raises(TypeError, match="is one path"):
        find_text_sources("a.txt")


def test_bad_records_are_left_out_on_request(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{}\n')
    with pytest.warns(UserWarning, match="1 records cannot be used"):
        assert list(iterate_text_files([tmp_path], skip_bad_records=True)) == ["x"]
