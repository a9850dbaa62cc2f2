"""A corpus splits its documents as asked, and reads the same ones again each time."""

import json
from pathlib import Path

import pytest

from trine.tokenization import text_files
from trine.training.data import corpus as corpus_module
from trine.training.data.corpus import Corpus, Part


def write(folder: Path, documents: list[str]) -> list[Path]:
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return [folder / "a.jsonl"]


def documents_of(corpus: Corpus, part: Part) -> list[str]:
    documents: dict[int, str] = {}
    for piece in corpus.pieces():
        if piece.part != part:
            continue
        documents[piece.document] = documents.get(piece.document, "") + piece.text
    return list(documents.values())


def test_documents_stay_whole_and_near_the_fraction(tmp_path):
    documents = [chr(65 + number % 26) * (20 + number % 7) + str(number) for number in range(500)]
    corpus = Corpus(write(tmp_path, documents), validation_fraction=0.1, seed=3)
    train, validation = documents_of(corpus, "training"), documents_of(corpus, "validation")
    assert sorted(train + validation) == sorted(documents)
    assert sum(map(len, validation)) / sum(map(len, documents)) == pytest.approx(0.1, abs=0.01)
    again = Corpus(corpus.sources, validation_fraction=0.1, seed=3)
    assert (documents_of(again, "training"), documents_of(again, "validation")) == (train, validation)
    assert documents_of(Corpus(corpus.sources, validation_fraction=0.1, seed=4), "validation") != validation
    assert max(documents.index(document) for document in validation) > 250 > documents.index(validation[0])
    assert list(corpus.texts("validation")) == validation


@pytest.mark.parametrize("piece_size", [100, 2**20])
def test_the_end_of_one_long_document_is_cut_off(tmp_path, monkeypatch, piece_size):
    monkeypatch.setattr(text_files, "PIECE_SIZE", piece_size)
    lines = "".join(f"line {number}\n" for number in range(1000))
    (tmp_path / "a.txt").write_text("short\n")
    (tmp_path / "b.txt").write_text(lines)
    corpus = Corpus([tmp_path / "a.txt", tmp_path / "b.txt"], validation_fraction=0.0005)
    (short, train), (validation,) = documents_of(corpus, "training"), documents_of(corpus, "validation")
    assert short == "short\n" and train + validation == lines and train.endswith("\n")
    corpus = Corpus([tmp_path / "b.txt"], validation_fraction=0.1)
    (train,), (validation,) = documents_of(corpus, "training"), documents_of(corpus, "validation")
    assert train + validation == lines and train.endswith("\n")
    assert len(validation) / len(lines) == pytest.approx(0.1, abs=0.01)


def test_the_identity_changes_with_what_the_parts_depend_on(tmp_path):
    files = write(tmp_path, ["one", "two"] * 10)
    first = Corpus(files, validation_fraction=0.3).identity
    assert first == Corpus(files, validation_fraction=0.3).identity
    assert first != Corpus(files, validation_fraction=0.3, seed=1).identity
    assert first != Corpus(files, validation_fraction=0.4).identity
    write(tmp_path, ["one", "six"] * 11)
    assert first != Corpus(files, validation_fraction=0.3).identity
    named = Corpus([f"hf:{tmp_path}"], validation_fraction=0.3).identity
    assert named == Corpus([f"hf:{tmp_path}"], validation_fraction=0.3).identity
    write(tmp_path, ["one", "ten"] * 12)
    assert named != Corpus([f"hf:{tmp_path}"], validation_fraction=0.3).identity


@pytest.mark.parametrize("documents", [["one", "two", "six"] * 10, ["line\n" * 100]])
def test_what_was_counted_is_found_again(tmp_path, monkeypatch, documents):
    """Where documents are held out, and where the end of one is cut off. A change of the files is seen."""
    read, iterate = [], corpus_module.iterate_pieces
    monkeypatch.setattr(corpus_module, "iterate_pieces", lambda *args: read.append(1) or iterate(*args))
    files, options = write(tmp_path, documents), {"validation_fraction": 0.2, "cache": tmp_path / "cache"}
    first, times = Corpus(files, **options), len(read)
    again = Corpus(files, **options)
    assert len(read) == times and list(again.pieces()) == list(first.pieces())
    assert list(again.lengths) == [len(document) for document in documents]
    assert list(again.pieces()) == list(Corpus(files, validation_fraction=0.2).pieces())
    read.clear()
    assert list(Corpus(write(tmp_path, [*documents, "more"]), **options).lengths)[-1] == 4 and read


def test_bad_records_are_told_of_again(tmp_path):
    (file,) = write(tmp_path, ["one", "two"] * 10)
    with file.open("a") as lines:
        lines.write('{"text": 1}\n')
    options = {"validation_fraction": 0.3, "cache": tmp_path / "cache"}
    for _ in range(2):
        with pytest.raises(ValueError, match="1 records cannot be used:\n  '.*a.jsonl', record 21: the field 'text'"):
            Corpus([file], **options)
        with pytest.warns(UserWarning, match="1 records cannot be used:\n  '.*a.jsonl', record 21: the field 'text'"):
            assert Corpus([file], skip_bad_records=True, **options).bad_records == 1


def test_an_empty_document_does_not_stand_for_the_validation_part(tmp_path):
    for seed in range(4):
        corpus = Corpus(write(tmp_path, ["line\n" * 20, "", "line\n" * 20]), validation_fraction=0.1, seed=seed)
        assert "".join(documents_of(corpus, "validation"))


def test_bad_records(tmp_path):
    (file,) = write(tmp_path, ["one", "two"] * 10)
    with file.open("a") as lines:
        lines.write('{"text": 1}\n{"text"\n')
    with pytest.raises(
        ValueError, match="2 records cannot be used:\n  '.*a.jsonl', record 21: the field 'text' holds"
    ):
        Corpus([file], validation_fraction=0.3)
    with pytest.warns(UserWarning, match="2 records cannot be used"):
        corpus = Corpus([file], validation_fraction=0.3, skip_bad_records=True)
    assert corpus.bad_records == 2
    assert len(documents_of(corpus, "training") + documents_of(corpus, "validation")) == 20


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=r"validation_fraction=1.5 must"):
        Corpus(write(tmp_path, ["text"]), validation_fraction=1.5)
    with pytest.raises(ValueError, match="1 documents of 4 characters are too little"):
        Corpus(write(tmp_path, ["text"]), validation_fraction=0.1)
    with pytest.raises(ValueError, match="0 documents"):
        Corpus(write(tmp_path, []), validation_fraction=0.1)
