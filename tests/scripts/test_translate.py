"""`trine translate` and `trine evaluate-translation` on small untrained models."""

import json
import random
import re
import statistics

import pytest
import torch
from transformers import AutoTokenizer

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


def test_tokens_in_a_row_are_not_written_twice(folder, capsys):
    words = ["--num_beams", "1", "--text", "one two", "three", "--no_repeat_ngram_size", "1", "--max_new_tokens", "9"]
    translate.main(options(folder, *words))
    translator = Translator.from_pretrained(folder / "seed0", device="cpu")
    free, expected = (
        translator(["one two", "three"], max_new_tokens=9, **more) for more in ({}, {"no_repeat_ngram_size": 1})
    )
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in expected)
    assert expected != free


def test_plain_lines_of_the_first_records(folder, tmp_path):
    words = ["--files", str(folder / "pairs.jsonl"), "--most_records", "3", "--num_beams", "1"]
    translate.main(options(folder, *words, "--output_file", str(tmp_path / "out.txt")))
    assert len((tmp_path / "out.txt").read_text().split("\n")) == 4


def cells(report):
    """The rows of the tables of a report, by the first cell of each."""
    rows = [line.strip("| ").split(" | ") for line in report.splitlines() if line.startswith("| ")]
    return {name: others for name, *others in rows}


def test_the_table(folder, tmp_path, capsys):
    words = ["--models", str(folder / "seed0"), str(folder / "seed1"), "--files", str(folder / "pairs.jsonl")]
    words += ["--num_beams", "2", "--max_new_tokens", "5", "--title", "Numbers", "--metrics", "chrf"]
    evaluate_translation.main([*words, "--pairs", "3", "--report", str(tmp_path / "results.md")])
    report = (tmp_path / "results.md").read_text()
    assert report.startswith("## Numbers\n") and report in capsys.readouterr().out
    rows = cells(report)
    assert [*rows] == [
        *("decoding", "greedy", "beam 2", "ensemble of 2, beam 2"),
        *("difference", "beam 2, beside greedy", "ensemble of 2, beam 2, beside beam 2"),
    ]
    chrf = {}
    for beams in (1, 2):
        translators = [Translator.from_pretrained(folder / f"seed{seed}", device="cpu") for seed in range(2)]
        written = [each([s for s, _ in PAIRS[:3]], max_new_tokens=5, num_beams=beams) for each in translators]
        chrf[beams] = [score_texts(texts, [t for _, t in PAIRS[:3]], ["chrf"])["chrF"] for texts in written]
    assert rows["greedy"][0] == f"{statistics.fmean(chrf[1]):.2f} ({min(chrf[1]):.2f} to {max(chrf[1]):.2f})"
    gain, low, high = map(float, re.findall(r"[+-][\d.]+", rows["beam 2, beside greedy"][0]))
    assert gain == pytest.approx(statistics.fmean(chrf[2]) - statistics.fmean(chrf[1]), abs=0.006)
    assert low <= gain <= high
    assert len(re.findall(r"^\* Worst, \d+: ", report, flags=re.M)) == 3


def test_samples_are_the_beginnings_of_long_texts_on_one_line():
    assert evaluate_translation.beginning("a\n b " * 10) == "a b " * 9 + "a b"
    assert evaluate_translation.beginning("页" * 201) == "页" * 200 + "…"


def test_options_are_chosen_on_validation_and_models_compared(folder, tmp_path, capsys):
    pairs = str(folder / "pairs.jsonl")
    words = ["--models", str(folder / "seed0"), "--beside", str(folder / "seed1"), "--files", pairs, "--seed", "7"]
    words += ["--num_beams", "2", "--max_new_tokens", "5", "--metrics", "rouge", "--coverage_penalty", "0.1"]
    words += ["--length_penalty", "0.5", "2", "--no_repeat_ngram_size", "1", "--validation_files", pairs]
    evaluate_translation.main([*words, "--validation_pairs", "2", "--pairs", "3"])
    printed, told = capsys.readouterr()
    scores = dict(re.findall(r"^tried: length penalty (\S+): ROUGE-1 ([\d.]+)", told, flags=re.M))
    assert [*scores] == ["0.5", "2"] and "Chosen by the first score of 2 validation pairs with beam 2: " in printed
    length = max(scores, key=lambda value: float(scores[value]))
    rows = cells(printed)
    ways = [f"beam 2, length penalty {length}", "beam 2, coverage penalty 0.1", "beam 2, no 1 tokens twice"]
    both = f"beam 2, length penalty {length}, coverage penalty 0.1"
    assert [*rows][1:8] == ["greedy", "beam 2", *ways, both, "seed1, beam 2"]
    assert {f"{name}, beside beam 2" for name in [*ways, both, "seed1, beam 2"]} <= {*rows}
    drawn = [*PAIRS]
    random.Random(7).shuffle(drawn)
    other = Translator.from_pretrained(folder / "seed1", device="cpu")
    texts = other([source for source, _ in drawn[:3]], max_new_tokens=5, num_beams=2)
    expected = score_texts(texts, [target for _, target in drawn[:3]], ["rouge"])
    assert rows["seed1, beam 2"][:3] == [f"{score:.2f}" for score in expected.values()]


def test_the_table_of_a_language_that_is_asked_for_by_its_tag(folder, tmp_path, capsys):
    """One without tags, beside it, is asked without."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "seed0")
    tokenizer.add_tokens(["<2up>", "<2down>"])
    model = TrineForConditionalGeneration.from_pretrained(folder / "seed0")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "tagged")
    words = ["--models", str(tmp_path / "tagged"), "--beside", str(folder / "seed1"), "--metrics", "chrf"]
    words += ["--num_beams", "2", "--max_new_tokens", "5", "--files", str(folder / "pairs.jsonl")]
    evaluate_translation.main([*words, "--target_language", "up"])
    rows = cells(capsys.readouterr().out)
    for row, name, tag in (("beam 2", tmp_path / "tagged", "<2up>"), ("seed1, beam 2", folder / "seed1", "")):
        translator = Translator.from_pretrained(name, device="cpu")
        texts = translator([tag + source for source, _ in PAIRS], max_new_tokens=5, num_beams=2)
        assert rows[row][0] == f"{score_texts(texts, [target for _, target in PAIRS], ['chrf'])['chrF']:.2f}"
    with pytest.raises(SystemExit, match=re.escape("target_language='zh' is not one of ['down', 'up'].")):
        evaluate_translation.main([*words, "--target_language", "zh"])
    with pytest.raises(SystemExit, match="target_language='up' is unknown: the tokenizer has no language tags."):
        evaluate_translation.main([*words, "--models", str(folder / "seed0"), "--target_language", "up"])


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
        (["--text", "a", "--no_repeat_ngram_size", "-1"], "no_repeat_ngram_size=-1 must be at least 0."),
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
    for argv, message in {
        ("--coverage_penalty", "-1"): "coverage_penalty=[-1.0] must be at least 0.",
        ("--length_penalty", "1", "2"): "length_penalty=[1.0, 2.0]: to choose one of several needs validation_files.",
    }.items():
        with pytest.raises(SystemExit):
            evaluate_translation.main([*words, *argv])
        assert message in capsys.readouterr().err
