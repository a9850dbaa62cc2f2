"""Records from every kind of file and data set, and the count of those that cannot be used."""

import csv
import gzip
import json
from pathlib import Path

import pytest
from datasets import Dataset

from trine.tokenization.records import BadRecords, iterate_records


ROWS = [{"name": f"n{number}", "size": number} for number in range(2500)]


def write(path) -> str:
    """Writes `ROWS` in the format that the ending of the path names."""
    if path.suffix == ".gz":
        plain = Path(write(path.with_suffix("")))
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".parquet":
        Dataset.from_list(ROWS).to_parquet(path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["name", "size"])
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        Dataset.from_list(ROWS).save_to_disk(path)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv", "saved", "a.jsonl.gz", "a.csv.gz"])
def test_every_format_gives_the_same_records(tmp_path, name):
    source, bad = write(tmp_path / name), BadRecords()
    types = {"name": str, "size": str if ".csv" in name else int}
    rows = [{**row, "size": int(row["size"])} for row in iterate_records([source], types, bad)]
    assert rows == ROWS and bad.count == 0
    if name != "saved":
        assert len(list(iterate_records([tmp_path], types, bad))) == len(ROWS)  # by its folder, too


def test_data_sets_by_name(tmp_path):
    write(tmp_path / "train.jsonl")
    rows = list(iterate_records([f"hf:{tmp_path}"], {"size": int}, BadRecords()))
    assert rows == [{"size": row["size"]} for row in ROWS]
    assert len(list(iterate_records([f"hf:{tmp_path}:train"], {"size": int}, BadRecords()))) == len(ROWS)


BAD = b'{"name": "a"}\n{"name": 1}\n\n{"nom": "b"}\n[]\n"text"\n{"name": "c"\n{"name": "\xff"}\n{"name": "d"}\n'


def test_bad_records_are_counted_with_their_places(tmp_path):
    file, bad = tmp_path / "a.jsonl", BadRecords()
    file.write_bytes(BAD)
    assert list(iterate_records([file], {"name": str}, bad)) == [{"name": "a"}, {"name": "d"}]
    assert bad.count == 6
    with pytest.raises(ValueError, match="6 records cannot be used") as error:
        bad.check()
    lines = str(error.value).splitlines()[1:]
    assert [line.partition(": ")[0].strip() for line in lines[:5]] == [
        f"'{file}', record {number}" for number in (2, 4, 5, 6, 7)
    ]
    assert lines[0].endswith("the field 'name' holds an int") and lines[1].endswith("is missing from ['nom']")
    assert lines[2].endswith("it is a list") and lines[3].endswith("it is a str") and "it is not JSON" in lines[4]
    assert lines[5:] == ["  and 1 more", "Mend them, or leave them out with --skip_bad_records."]


def test_bad_records_are_left_out_on_request(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(BAD)
    bad = BadRecords(skip=True)
    assert len(list(iterate_records([tmp_path], {"name": str}, bad))) == 2
    with pytest.warns(UserWarning, match="6 records cannot be used"):
        bad.check()
    BadRecords(skip=True).check()  # says nothing where nothing is wrong


def test_errors(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match="a.parquet' is not Parquet"):
        list(iterate_records([tmp_path], {"name": str}, BadRecords()))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list(iterate_records([tmp_path / "b.jsonl"], {}, BadRecords()))
    with pytest.raises(
        ValueError,
        match=r"does not end in one of \['.jsonl', '.csv', '.parquet', ",
    ):
        list(iterate_records([__file__], {}, BadRecords()))
    with pytest.raises(TypeError, match="is one source"):
        list(iterate_records("a.jsonl", {}, BadRecords()))
