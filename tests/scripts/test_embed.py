"""`trine embed`: vectors of texts and of their chunks, as sentence-transformers and `late_chunks` make them."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from support.searches import DOCUMENTS, save_encoder

from trine import TrineModel
from trine.retrieval import late_chunks
from trine.scripts import embed
from trine.scripts.jobs.encoders import load_encoder


LONG = {"rivers": "A red house stands there. It is old! The river is near.", "other": "一座红房子。它很旧。"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed")
    save_encoder(folder / "encoder")
    write(folder / "docs.jsonl", DOCUMENTS)
    write(folder / "long.jsonl", LONG)
    write(folder / "empty.jsonl", {})
    write(folder / "control.jsonl", {"here": "a red house", "there": "\u0301"})
    model = TrineModel.from_pretrained(folder / "encoder")
    torch.nn.init.constant_(model.norm.weight, torch.nan)
    save_encoder(folder / "broken")
    model.save_pretrained(folder / "broken")
    return folder


def write(path, documents):
    lines = [json.dumps({"name": id_, "words": text}, ensure_ascii=False) + "\n" for id_, text in documents.items()]
    path.write_text("".join(lines), encoding="utf-8")


def run(folder, output, *argv, files="docs.jsonl", model="encoder"):
    words = ["--files", str(folder / files), "--output_dir", str(folder / output), "--device", "cpu"]
    words += ["--model", str(folder / model), "--text_field", "words", "--id_field", "name"]
    return embed.main([*words, *argv])


def rows_of(folder, output):
    return [json.loads(line) for line in (folder / output / "texts.jsonl").read_text(encoding="utf-8").splitlines()]


def test_one_vector_of_each_text(folder, capsys, monkeypatch):
    monkeypatch.setattr(embed, "BLOCK", 3)
    assert run(folder, "plain", "--prompt", "text: ", "--json") == 0
    printed = capsys.readouterr()
    vectors = load_file(folder / "plain" / "vectors.safetensors")["vectors"]
    expected = load_encoder(str(folder / "encoder"), "cpu").encode([*DOCUMENTS.values()], prompt="text: ")
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    assert rows_of(folder, "plain") == [{"id": id_} for id_ in DOCUMENTS]
    written = json.loads(printed.out)
    assert (written["documents"], written["vectors"]) == (len(DOCUMENTS), len(DOCUMENTS))
    assert written["dimensions"] == vectors.shape[1] and f"3 of {len(DOCUMENTS)} texts" in printed.err


@pytest.mark.parametrize("tokens", [None, 4])
def test_chunks_that_know_their_text(folder, tokens):
    words = [] if tokens is None else ["--chunk_tokens", str(tokens)]
    options = ["--late_chunking", "--format", "npy", "--normalize_embeddings"]
    assert run(folder, "late", *options, *words, files="long.jsonl") == 0
    vectors, rows = np.load(folder / "late" / "vectors.npy"), rows_of(folder, "late")
    assert len(vectors) == len(rows)
    model = load_encoder(str(folder / "encoder"), "cpu")
    for id_, text in LONG.items():
        places = [place for place, row in enumerate(rows) if row["document"] == id_]
        expected = late_chunks(model, text, chunk_size=tokens, normalize_embeddings=True)
        np.testing.assert_allclose(vectors[places], expected.vectors, rtol=1e-5, atol=1e-6)
        spans = [(rows[place]["start"], rows[place]["end"]) for place in places]
        assert spans == expected.spans and "".join(rows[place]["text"] for place in places) == text
        assert [rows[place]["id"] for place in places] == [f"{id_}#{number}" for number in range(len(places))]
    assert tokens or [row["text"] for row in rows][-2:] == ["一座红房子。", "它很旧。"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "csv"], "format='csv' is not one of ['safetensors', 'npy']"),
        (["--chunk_tokens", "4"], "chunk_tokens=4 belongs to late_chunking=True."),
        (["--late_chunking", "--chunk_tokens", "0"], "chunk_tokens=0 must be at least 1."),
        (["--late_chunking", "--overlap", "-1"], "overlap=-1 must be at least 0."),
        (["--batch_size", "0"], "batch_size=0 must be at least 1."),
        (["--files", "absent.jsonl"], "The file or folder 'absent.jsonl' does not exist."),
        (["--files", "{folder}/empty.jsonl"], "empty.jsonl'"),
        (["--text_field", "text"], "the field 'text' is missing from ['name', 'words']"),
        (["--model", "absent"], "model='absent' cannot be read"),
        (["--model", "{folder}/broken"], "broken' gives vectors that are not finite."),
        (
            ["--late_chunking", "--files", "{folder}/control.jsonl"],
            "late_chunking=True, texts from id 'here' on: document[1]=",
        ),
    ],
)
def test_what_is_refused(words, message, folder, capsys):
    with pytest.raises(SystemExit) as caught:
        run(folder, "refused", *(word.replace("{folder}", str(folder)) for word in words))
    assert message in str(caught.value.code) + capsys.readouterr().err


def test_an_interruption_writes_nothing(folder, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(embed, "embed_texts", interrupt)
    assert run(folder, "interrupted") == 130
    assert "Interrupted; nothing is written." in capsys.readouterr().err and not (folder / "interrupted").exists()
