"""`trine translate` and `trine evaluate-translation` on small untrained models."""

import json
import re
import statistics

import pytest
import torch

from trine import TrineForConditionalGeneration, TrineSeq2SeqConfig, train_unigram
from trine.generation.translation.metrics import score_texts
from trine.generation.translation.translator import Translator
from trine.scripts import evaluate_translation, translate


PAIRS = [("one two", "two one"), ("three", "three"), ("four five six", "six five four"), ("two", "two")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models with their tokenizer, and records."""
    folder = tmp_path_factory.mktemp("translators")
    tokenizer = train_unigram(sum(PAIRS, ()), 380, model_max_length=16, show_progress=False)
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    special |= {"vocab_size": len(tokenizer), "decoder_start_token_id": tokenizer.bos_token_id}
    for seed in range(2):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = TrineForConditionalGeneration(TrineSeq2SeqConfig.from_preset("tiny", **sizes, **special))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        model.save_pretrained(folder / f"seed{seed}")
        tokenizer.save_pretrained(folder / f"seed{seed}")
    (folder / "seed0" / "metrics.json").write_text('{"steps": 1234}')
    lines = [json.dumps({"source": source, "target": target}) + "\n" for source, target in PAIRS]
    (folder / "pairs.jsonl").write_text("".join(lines))
    return folder


def options(folder, *argv):
    return ["--device", "cpu", "--max_new_tokens", "5", "--model", str(folder / "seed0"), *argv]


def test_texts_are_printed(folder, capsys):
    translate.main(options(folder, "--num_beams", "2", "--text", "one two", "three"))
    translator = Translator.from_pretrained(folder / "seed0", device="cpu")
    expected = translator(["one two", "three"], num_beams=2, max_new_tokens=5)
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in expected)


def test_an_ensemble_writes_records_and_is_scored(folder, tmp_path, capsys):
    models = [str(folder / f"seed{seed}") for seed in range(2)]
    words = ["--model", *models, "--files", str(folder / "pairs.jsonl"), "--references", "target"]
    words += ["--coverage_penalty", "0.3", "--length_penalty", "1.5", "--num_beams", "2", "--batch_size", "3"]
    translate.main(options(folder, *words, "--output_file", str(tmp_path / "out.jsonl"), "--metrics", "chrf", "rouge"))
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(record["source"], record["reference"]) for record in records] == PAIRS
    translator = Translator.from_pretrained(models, device="cpu", attn_implementation="eager")
    settings = {"num_beams": 2, "length_penalty": 1.5, "coverage_penalty": 0.3, "max_new_tokens": 5}
    texts = translator([source for source, _ in PAIRS], **settings)
    assert [record["text"] for record in records] == texts
    scores = score_texts(texts, [target for _, target in PAIRS], ["chrf", "rouge"])
    printed = capsys.readouterr().out
    assert "4 texts:" in printed and printed.split()[-4:] == [f"{score:.2f}" for score in scores.values()]


def test_plain_lines_of_the_first_records(folder, tmp_path):
    words = ["--files", str(folder / "pairs.jsonl"), "--most_records", "3", "--num_beams", "1"]
    translate.main(options(folder, *words, "--output_file", str(tmp_path / "out.txt")))
    assert len((tmp_path / "out.txt").read_text().split("\n")) == 4


def test_the_table(folder, tmp_path, capsys):
    words = ["--models", str(folder / "seed0"), str(folder / "seed1"), "--files", str(folder / "pairs.jsonl")]
    words += [
        "--num_beams",
        "2",
        "--max_new_tokens",
        "5",
        "--report",
        str(tmp_path / "results.md"),
        "--title",
        "Numbers",
    ]
    evaluate_translation.main([*words, "--pairs", "3"])
    report = (tmp_path / "results.md").read_text()
    assert report.startswith("## Numbers\n") and report in capsys.readouterr().out
    rows = [line.split(" | ") for line in report.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows[:3]] == ["decoding", "greedy", "beam 2"] and len(rows) == 7
    assert rows[-1][0] == "| ensemble of 2, beam 2"
    chrf = []
    for seed in range(2):
        texts = Translator.from_pretrained(folder / f"seed{seed}", device="cpu")(
            [s for s, _ in PAIRS[:3]], max_new_tokens=5
        )
        chrf.append(score_texts(texts, [t for _, t in PAIRS[:3]], ["chrf"])["chrF"])
    assert rows[1][2] == f"{statistics.fmean(chrf):.2f} ({min(chrf):.2f} to {max(chrf):.2f})"
    assert len(re.findall(r"^\* Worst, \d+: ", report, flags=re.M)) == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--text", ""], "texts[0]='' is empty."),
        (["--text", "one " * 30], "more than max_length=16"),
        (["--text", "one", "--target_language", "zh"], "target_language='zh' is unknown"),
        (["--text", "one", "--model", "absent-folder"], "absent-folder"),
        (["--files", "absent.jsonl"], "absent.jsonl"),
        (["--files", "{folder}/pairs.jsonl", "--source_field", "de"], "the field 'de' is missing"),
        (["--text", "one", "--output_file", "/absent/folder/out.txt"], "/absent/folder/out.txt"),
    ],
)
def test_errors(folder, argv, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        translate.main(options(folder, *(text.format(folder=folder) for text in argv)))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--text", "a", "--files", "b"], "Give either --text or --files"),
        (["--text", "a", "--references", "en"], "references='en' is a field of records: it needs --files."),
        (["--text", "a", "--num_beams", "0"], "num_beams=0 must be at least 1."),
        (
            ["--text", "a", "--num_beams", "1", "--coverage_penalty", "0.2"],
            "coverage_penalty=0.2 needs num_beams of 2",
        ),
        (["--text", "a", "--max_new_tokens", "0"], "max_new_tokens=0 must be at least 1."),
        (["--files", "a", "--references", "b", "--metrics", "blue"], "metrics has 'blue'"),
        (["--text", "a", "--language", "fr"], "language='fr' is not one of"),
    ],
)
def test_argument_errors(folder, capsys, argv, message):
    with pytest.raises(SystemExit):
        translate.main(options(folder, *argv))
    assert message in capsys.readouterr().err


def test_errors_of_the_table(folder, capsys):
    words = ["--models", str(folder / "seed0"), "--files", str(folder / "pairs.jsonl")]
    with pytest.raises(SystemExit, match="the field 'de' is missing"):
        evaluate_translation.main([*words, "--source_field", "de"])
    with pytest.raises(SystemExit):
        evaluate_translation.main([*words, "--num_beams", "1"])
    assert "num_beams=1 must be at least 2." in capsys.readouterr().err
