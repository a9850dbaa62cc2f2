"""A summarizer: trained on records with files to validate with, scored beside the first words of its texts."""

import json
import re

import pytest

from trine.generation.translation.translator import Translator
from trine.scripts import train_summarizer, train_translation
from trine.scripts.jobs import text_pairs


NUMBERS = ["one", "two", "three", "four", "five", "six"]
SMALL = ["hidden_size=16", "intermediate_size=32", "num_hidden_layers=1", "num_attention_heads=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("summarizer")
    records = [{"long": f"{a} and then {b}, of course", "short": f"{a} {b}"} for a in NUMBERS for b in NUMBERS]
    write(folder / "train.jsonl", records[:30])
    write(folder / "validation.jsonl", records[26:])
    return folder


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def run(folder, output, *argv, script=train_summarizer):
    words = ["--files", str(folder / "train.jsonl"), "--vocab_size", "400", "--preset", "tiny"]
    words += ["--samples", "1", "--config_overrides", *SMALL, "--max_steps", "2", "--save_steps", "2"]
    words += ["--per_device_train_batch_size", "4", "--use_cpu", "--disable_tqdm", "true", "--max_length", "16"]
    return script.main([*words, "--output_dir", str(output), *argv])


def test_scores_beside_the_first_words(folder, tmp_path, capsys):
    words = ["--validation_files", str(folder / "validation.jsonl"), "--lead_words", "4", "--score_pairs", "8"]
    assert run(folder, tmp_path, *words) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["training_pairs"] == 26 and metrics["validation_pairs"] == 10  # 4 of the 30 are in both files
    assert set(metrics["scores"]) == {"model", "first 4 words"}
    # "a and then b," has both of the summary's words among its 4: P = 1/2, R = 1.
    assert metrics["scores"]["first 4 words"]["ROUGE-1"] == pytest.approx(100 * 2 / 3)
    printed = capsys.readouterr().out
    assert "8 validation pairs, greedy:" in printed and re.search(r"first 4 words +66\.67", printed)
    translator = Translator.from_pretrained(tmp_path, device="cpu")
    assert translator.max_length == 16  # the tokenizer knows how long texts were


def test_beams_that_are_scored(folder, tmp_path, monkeypatch, capsys):
    asked = []

    def spy(self, texts, **options):
        asked.append(options["num_beams"])
        return ["one two"] * len(texts)

    monkeypatch.setattr(Translator, "__call__", spy)
    assert run(folder, tmp_path, "--validation_pairs", "4", "--generation_num_beams", "3") == 0
    assert asked == [4, 3] and "4 validation pairs, 3 beams:" in capsys.readouterr().out


def test_several_languages_by_tags(folder, tmp_path):
    records = [
        {"source": a, "target": b, "to": to} for a in NUMBERS for b, to in ((a.upper(), "up"), (a[::-1], "back"))
    ]
    write(tmp_path / "pairs.jsonl", records)
    words = ["--files", str(tmp_path / "pairs.jsonl"), "--target_language_field", "to", "--validation_pairs", "2"]
    assert run(folder, tmp_path / "model", *words, script=train_translation) == 0
    translator = Translator.from_pretrained(tmp_path / "model", device="cpu")
    assert len(translator(["one", "two"], target_language="up", max_new_tokens=2)) == 2
    with pytest.raises(ValueError, match=re.escape("target_language='down' is not one of ['back', 'up'].")):
        translator("one", target_language="down")


def test_the_tag_of_a_language_is_looked_up_once(monkeypatch):
    """A look-up reads the whole vocabulary: for each of 40,000 pairs it took minutes."""
    asked = []
    monkeypatch.setattr(text_pairs, "find_tag", lambda tokenizer, language: asked.append(language) or f"<2{language}>")
    pairs = [text_pairs.Pair("a", "b", "up"), text_pairs.Pair("c", "d"), text_pairs.Pair("e", "f", "up")]
    found = text_pairs.tag_pairs(pairs, tokenizer=None)
    assert found == [("<2up>a", "b", "up"), ("c", "d", None), ("<2up>e", "f", "up")] and asked == ["up"]


def test_a_pointer_by_config_overrides(folder, tmp_path):
    words = ["--config_overrides", "pointer_size=8", "coverage_loss_coef=0.5", "--validation_pairs", "4"]
    assert run(folder, tmp_path, *words, "--score_pairs", "2") == 0
    translator = Translator.from_pretrained(tmp_path, device="cpu")
    assert translator.model.pointer is not None and translator.model.config.coverage_loss_coef == 0.5
    assert len(translator(["one and then two"], max_new_tokens=2, num_beams=2)) == 1


def test_early_stopping(folder, tmp_path, capsys):
    words = ["--early_stopping_patience", "1", "--validation_pairs", "4", "--metrics", "rouge", "--score_pairs", "2"]
    with pytest.raises(SystemExit, match="early_stopping_patience=1 needs --load_best_model_at_end"):
        run(folder, tmp_path, *words)
    words += ["--load_best_model_at_end", "--learning_rate", "0", "--eval_steps", "1", "--save_steps", "1"]
    assert run(folder, tmp_path, *words, "--max_steps", "9") == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == 2


def test_bad_records_are_counted(folder, tmp_path):
    write(tmp_path / "bad.jsonl", [{"long": "one and two", "short": " "}, {"long": "one"}])
    words = ["--files", str(folder / "train.jsonl"), str(tmp_path / "bad.jsonl")]
    with pytest.raises(SystemExit, match="2 records cannot be used(.|\n)*record 1: the field 'short' is empty"):
        run(folder, tmp_path / "model", *words)
    with pytest.warns(UserWarning, match="They are left out."):
        status = run(
            folder, tmp_path / "model", *words, "--skip_bad_records", "--validation_pairs", "4", "--score_pairs", "1"
        )
    assert status == 0 and json.loads((tmp_path / "model" / "metrics.json").read_text())["bad_records"] == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lead_words", "0"], "lead_words=0 must be at least 1."),
        (["--score_pairs", "0"], "score_pairs=0 must be at least 1."),
        (["--metrics", "rogue"], "metrics has 'rogue', which is not one of ['bleu', 'chrf', 'meteor', 'rouge']."),
        (["--language", "fr"], "language='fr' is not one of ['en', 'zh']"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(folder, tmp_path, capsys, argv, message):
    with pytest.raises(SystemExit):
        run(folder, tmp_path, *argv)
    assert message in capsys.readouterr().err


def test_nothing_is_left_to_train_on(folder, tmp_path):
    words = ["--validation_files", str(folder / "train.jsonl")]
    with pytest.raises(SystemExit, match="30 pairs leave none to train on beside the validation_files."):
        run(folder, tmp_path, *words)
