"""What files of records hold that others would trip over: it is read, or counted, or refused with its place."""

import gzip
import json
import sys

import pytest

from trine.tokenization.records import BadRecords, iterate_records


def read(path, fields=None) -> tuple[list, list[str]]:
    """The records, and what was wrong with the others."""
    bad = BadRecords()
    return [*iterate_records([path], fields or {"text": str}, bad)], bad.shown


def test_json_is_a_list_of_records_or_one_a_line_or_one(tmp_path):
    rows = [{"text": f"{number} 二"} for number in range(3)]
    contents = {
        "list": json.dumps(rows, indent=2),
        "short": json.dumps(rows),
        "lines": "".join(json.dumps(row) + "\n" for row in rows),
        "marked": "\ufeff" + json.dumps(rows),
        "one": json.dumps(rows[0], indent=2),
    }
    for name, content in contents.items():
        expected = rows[:1] if name == "one" else rows
        (tmp_path / f"{name}.json").write_text(content, encoding="utf-8")
        (tmp_path / f"{name}.json.gz").write_bytes(gzip.compress(content.encode()))
        for ending in ("json", "json.gz"):
            assert read(tmp_path / f"{name}.{ending}") == (expected, []), (name, ending)


def test_a_list_that_holds_other_things(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "x"}, 3, null]')
    records, bad = read(tmp_path / "a.json")
    assert records == [{"text": "x"}] and [text.rpartition(": ")[2] for text in bad] == [
        "it is an int",
        "it is a NoneType",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"text": "x"}', "neither a list of records nor one record a line: it is not JSON"),
        ("a.json", b"[" * 100_000, "it is nested too deeply"),
        ("a.json", b'["\xff"]', "it is not UTF-8 text"),
        ("a.json", b"3", "it is an int"),
        ("a.csv", b"text\nfirst\n\xe4\n", r"a.csv' is not UTF-8 text: line 3 has the byte 0xe4 at place 1. Save it"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "a.jsonl' is not UTF-8 text, but UTF-16 or binary. Save it"),
        (
            "a.jsonl",
            '{"text": "a"}\n'.encode("utf-16-le"),
            "a.jsonl' is not UTF-8 text, but UTF-16 or binary. Save it",
        ),
        ("a.csv", "text\nä\n".encode("utf-16"), "a.csv' is not UTF-8 text: line 1 has the byte 0xff at place 1."),
        ("a.csv", b'text,n\na,1\nb,2\n"c,3\nd,4\ne,5\n', "a.csv', line 4: a quote is opened and never closed."),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 9000, mtime=0)[:-30], "a.jsonl.gz' is damaged or cut off"),
        ("a.jsonl.gz", b'{"text": "x"}\n', "a.jsonl.gz' is damaged or cut off: Not a gzipped file"),
        ("a.csv.gz", gzip.compress(b"text\nfirst\n\xe4\n", mtime=0), "a.csv.gz' is not UTF-8 text: line 3"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


def test_long_fields_of_csv(tmp_path):
    """Python's own limit is 131,072 characters."""
    text = "long " * 40_000
    (tmp_path / "a.csv").write_text(f"text,n\n{text},1\n", encoding="utf-8")
    assert read(tmp_path / "a.csv") == ([{"text": text}], [])


def test_a_quote_that_is_closed_at_the_wrong_place_costs_one_record(tmp_path):
    (tmp_path / "a.csv").write_text('text,n\na,1\n"b,2\nc "quoted",3\nd,4\n')
    records, bad = read(tmp_path / "a.csv")
    assert records == [{"text": "a"}, {"text": "d"}]
    assert bad == [f"'{tmp_path / 'a.csv'}', record 2: it is not CSV, from line 3 on: ',' expected after '\"'"]


BAD_JSON = {
    '{"text": "\\ud83d"}': r"the field 'text' holds '\ud83d', one half of a character, which is no text",
    "[" * 100_000: "it is nested too deeply",
    f'{{"text": {"1" * 5000}}}': "it is not JSON: Exceeds the limit",
    '{"text": "x", "more": ' + '{"a": ' * 100_000: "it is nested too deeply",
}


@pytest.mark.parametrize("line", BAD_JSON)
def test_lines_of_json_that_are_bad(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "\\ud83d\\ude00"}}\n{line}\n{{"text": "y"}}\n')
    records, (bad,) = read(tmp_path / "a.jsonl")
    assert records == [{"text": "😀"}, {"text": "y"}] and BAD_JSON[line] in bad and "record 2" in bad


def test_halves_of_characters_at_any_depth(tmp_path):
    depth = 200
    rows = [{"messages": [{"role": "user", "content": [{"text": "\ud800"}]}], "other": "x"}]
    rows += [{"messages": json.loads("[" * depth + '"\\udfff"' + "]" * depth)}, {"messages": [], "other": "\ud800"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records, bad = read(tmp_path / "a.jsonl", {"messages": list})
    assert records == [{"messages": []}] and len(bad) == 2 and r"'\ud800', one half" in bad[0]


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"a.parquet' needs pyarrow: pip install 'trine\[scripts\]'"):
        read(tmp_path / "a.parquet")


def test_saved_data_sets(tmp_path):
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list([{"text": "x"}])}).save_to_disk(tmp_path / "all")
    with pytest.raises(ValueError, match="all' holds several splits: name one of them, such as .*all/train."):
        read(tmp_path / "all")
    assert read(tmp_path / "all" / "train") == ([{"text": "x"}], [])
    (tmp_path / "all" / "train" / "state.json").write_text("{}")
    with pytest.raises(ValueError, match="The data set in '.*train' cannot be read"):
        read(tmp_path / "all" / "train")
