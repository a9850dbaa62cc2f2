"""`trine evaluate-perplexity` prints bits per byte of models, n-grams and compressors."""

import gzip
import json
import re

import pytest
from support.tiny import tiny_model
from transformers import AutoModelForCausalLM

from trine import train_byte_level_bpe
from trine.scripts import evaluate_perplexity
from trine.training import text_losses


TEXTS = ["the cat sat on the mat", "the dog sat on the cat, and the mat on the dog", ""]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = train_byte_level_bpe(TEXTS, vocab_size=280, show_progress=False)
    tiny_model(vocab_size=len(tokenizer)).save_pretrained("model")
    tokenizer.save_pretrained("model")
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"long": text}) + "\n" for text in TEXTS))
    return tokenizer


def test_the_table_and_the_file(place, tmp_path, capsys):
    options = ["--models", "model", "--files", "test.jsonl", "--text_field", "long", "--output", "made/figures.json"]
    evaluate_perplexity.main([*options, "--ngram_files", "test.jsonl", "--ngram_order", "3"])
    rows = json.loads((tmp_path / "made/figures.json").read_text())
    assert [row["name"] for row in rows] == [
        "model",
        "3-grams of the training text",
        *(f"{name}, all texts as one" for name in ("gzip", "bzip2", "xz")),
    ]
    model = AutoModelForCausalLM.from_pretrained("model", dtype="auto")
    assert rows[0]["bits_per_byte"] == pytest.approx(text_losses(model, place, TEXTS).bits_per_byte, rel=1e-6)
    assert rows[0]["parameters"] == model.num_parameters()
    assert rows[1]["bits_per_byte"] < 3 < rows[0]["bits_per_byte"]  # it has counted these very texts
    data = "\n".join(TEXTS).encode()
    assert rows[2]["bits_per_byte"] == 8 * len(gzip.compress(data, 9)) / len(data)
    printed = capsys.readouterr().out
    assert printed.startswith("3 texts, 70 bytes\n") and f"| model | {model.num_parameters():,} |" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--texts", "0"], "texts=0 must be at least 1"),
        (["--text_field", "long"], r"files=\['empty.jsonl'\] hold no text in the field 'long'"),
        (["--text_field", "other"], "'other'"),
        (["--files", "test.jsonl", "--text_field", "long", "--output", "model"], "Is a directory: 'model'"),
        (
            ["--files", "test.jsonl", "--text_field", "long", "--ngram_files", "empty.jsonl", "--ngram_field", "no"],
            "'no'",
        ),
        (["--models", "absent", "--text_field", "long", "--files", "test.jsonl"], "offline mode"),
    ],
)
def test_bad_input_is_told_before_anything_is_measured(place, options, message, tmp_path, capsys, monkeypatch):
    if "absent" not in options:
        monkeypatch.setattr(evaluate_perplexity, "measure_model", lambda *_: pytest.fail("a model was measured"))
    (tmp_path / "empty.jsonl").write_text('{"long": ""}\n')
    with pytest.raises(SystemExit) as stopped:
        evaluate_perplexity.main(["--models", "model", "--files", "empty.jsonl", *options])
    assert re.search(message, f"{stopped.value}{capsys.readouterr().err}")
