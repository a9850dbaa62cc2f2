"""`trine index`: what a second run encodes, what an interruption leaves, and whose places records may take."""

import json

import pytest
from support.indexing import run_index, write_records
from support.searches import DOCUMENTS, save_encoder

from trine.retrieval import HybridSearch
from trine.scripts import index
from trine.scripts.jobs.encoders import load_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    save_encoder(folder / "encoder")
    write_records(folder / "docs.jsonl", DOCUMENTS)
    assert run_index(folder, "made", "--model", str(folder / "encoder")) == 0
    return folder


def test_only_what_is_new_is_encoded(folder, tmp_path, capsys):
    (folder / "changed.jsonl").unlink(missing_ok=True)
    items = [*DOCUMENTS.items()]
    write_records(folder / "changed.jsonl", {**dict(items[:30]), items[0][0]: "a tent", "new": "一只黑鸟"})
    assert run_index(folder, "updated", "--model", str(folder / "encoder")) == 0
    capsys.readouterr()
    assert run_index(folder, "updated", "--remove_missing", files="changed.jsonl") == 0
    told = capsys.readouterr()
    assert "1 added, 1 replaced, 29 unchanged, 6 removed" in told.err and "31 documents in" in told.out
    search = HybridSearch.load(folder / "updated", load_encoder(str(folder / "encoder"), "cpu"))
    assert search.search("黑鸟", 1)[0].id == "new"


def test_progress_and_interruption(folder, capsys, monkeypatch):
    monkeypatch.setattr(index, "BLOCK", 10)
    monkeypatch.setattr(index, "SECONDS", 0.0)
    update, calls = HybridSearch.update, []

    def interrupted(self, documents, *rest):
        calls.append(len(documents))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return update(self, documents, *rest)

    monkeypatch.setattr(HybridSearch, "update", interrupted)
    assert run_index(folder, "halted", "--model", str(folder / "encoder")) == 130
    told = capsys.readouterr()
    assert "10 of 36 documents, " in told.err and "the same command goes on" in told.err
    assert "20 documents in" in told.out
    assert run_index(folder, "halted") == 0
    told = capsys.readouterr()
    assert "16 added, 0 replaced, 20 unchanged" in told.err and "36 documents in" in told.out


def test_what_is_encoded_is_saved_from_time_to_time(folder, monkeypatch):
    """A process that is killed loses no more than what it did since then."""
    monkeypatch.setattr(index, "BLOCK", 10)
    monkeypatch.setattr(index, "SECONDS", 0.0)
    monkeypatch.setattr(index, "SAVING", -1.0)
    update, calls = HybridSearch.update, []

    def killed(self, documents, *rest):
        calls.append(len(documents))
        if len(calls) == 3:
            raise MemoryError
        return update(self, documents, *rest)

    monkeypatch.setattr(HybridSearch, "update", killed)
    monkeypatch.setattr(index, "max", lambda *_: -1.0, raising=False)  # of the pause between two savings
    with pytest.raises(MemoryError):
        run_index(folder, "killed", "--model", str(folder / "encoder"))
    assert len(HybridSearch.load(folder / "killed", load_encoder(str(folder / "encoder"), "cpu"))) == 20


def test_blocks_grow_while_they_are_quick(folder, capsys, monkeypatch):
    monkeypatch.setattr(index, "BLOCK", 5)
    monkeypatch.setattr(index, "SECONDS", 1e9)
    assert run_index(folder, "growing", "--model", str(folder / "encoder")) == 0
    told = capsys.readouterr().err
    assert "5 of 36 documents" in told and "15 of 36 documents" in told and "35 of 36 documents" in told


def test_records_without_ids_replace_nothing(folder, capsys):
    """Their places are their ids, which other files would take."""
    (folder / "others.jsonl").write_text('{"words": "a tent"}\n', encoding="utf-8")
    words = ["--text_field", "words", "--output_dir", str(folder / "places"), "--device", "cpu"]
    first = ["--files", str(folder / "docs.jsonl"), *words]
    other = ["--files", str(folder / "others.jsonl"), *words]
    assert index.main([*first, "--model", str(folder / "encoder")]) == 0
    assert index.main(first) == 0
    assert "36 unchanged" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1 documents of the index would be replaced by others, the first at place 0"):
        index.main(other)
    with pytest.raises(SystemExit, match="the index has ids such as '.*'. Name the field of the ids"):
        index.main([*first[:-3], str(folder / "made"), "--device", "cpu"])
    assert index.main([*other, "--remove_missing"]) == 0
    assert "0 added, 1 replaced, 0 unchanged, 35 removed" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["\u200b", " \n", "\u2060\u00ad"])
def test_a_text_without_anything_to_see_is_left_out(folder, capsys, text):
    (folder / "unseen.jsonl").write_text(
        "".join(json.dumps({"name": n, "words": w}) + "\n" for n, w in (("a", text), ("b", "a tent")))
    )
    with pytest.raises(SystemExit, match="the field 'words' is empty"):
        run_index(folder, "unseen", "--model", str(folder / "encoder"), files="unseen.jsonl")
    assert (
        run_index(folder, "unseen", "--model", str(folder / "encoder"), "--skip_bad_records", files="unseen.jsonl")
        == 0
    )
    assert "1 documents" in capsys.readouterr().out


def test_a_folder_of_other_things_is_not_counted(folder, capsys):
    """The size that is told is that of the index."""
    (folder / "full").mkdir()
    (folder / "full" / "big").write_bytes(bytes(5_000_000))
    assert run_index(folder, "full", "--model", str(folder / "encoder")) == 0
    assert ", 0.0 MB" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        index.main(["--files", "x", "--output_dir", " "])
