"""A translator from pairs of texts: trained, resumed, sampled, saved; and what it refuses."""

import json
import re

import pytest
import yaml
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from trine import train_byte_level_bpe
from trine.generation.mask_predict import MaskPredict
from trine.generation.translation.translator import Translator
from trine.scripts import train_translation
from trine.scripts.arguments.parsing import RECIPES
from trine.scripts.jobs.text_pairs import split_pairs


NUMBERS = ["one", "two", "three", "four", "five", "six"]
SMALL = ["hidden_size=16", "intermediate_size=32", "num_hidden_layers=1", "num_attention_heads=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translator")
    pairs = [{"de": f"{a} und {b}", "en": f"{b} and {a}"} for a in NUMBERS for b in NUMBERS]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    assert run(folder, "straight") == 0
    train_byte_level_bpe(["one und two"], 270, show_progress=False).save_pretrained(folder / "maskless")
    return folder


def run(folder, output, *argv):
    words = ["--files", str(folder / "pairs.jsonl"), "--source_field", "de", "--target_field", "en"]
    words += ["--vocab_size", "400", "--validation_pairs", "6", "--samples", "2", "--config_overrides", *SMALL]
    words += ["--max_steps", "4", "--save_steps", "2", "--per_device_train_batch_size", "4", "--use_cpu"]
    words += ["--disable_tqdm", "true", "--max_length", "16", "--output_dir", str(folder / output)]
    return train_translation.main([*words, *argv])


def test_what_a_run_leaves(folder):
    output = folder / "straight"
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "use_cache" not in json.loads((output / "config.json").read_text())
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["steps"] == 4 and metrics["training_pairs"] == 30
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    assert model.config.encoder.hidden_size == 16 and model.config.vocab_size == len(tokenizer)
    assert model.config.decoder_start_token_id == tokenizer.bos_token_id
    assert metrics["parameters"] == model.num_parameters()
    ids = tokenizer("one und two", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=4, num_beams=2).shape[0] == 1


def test_resume_and_samples(folder, capsys):
    (folder / "straight" / "checkpoint-2").rename(folder / "straight" / "checkpoint-1")  # the last is checkpoint-4
    assert run(folder, "straight", "--resume_from_checkpoint", "last", "--max_steps", "6") == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"\n\w+ und \w+\n  model:  .*?\n  target: \w+ and \w+\n", printed, flags=re.DOTALL)) == 2
    assert "with label smoothing 0.1." in printed
    assert json.loads((folder / "straight" / "metrics.json").read_text())["steps"] == 6


def test_a_model_for_mask_predict(folder, capsys):
    """It is trained on masked tokens, written with and scored, and keeps what mask-predict has to know."""
    assert run(folder, "masked", "--objective", "masked", "--iterations", "3", "--metrics", "chrf") == 0
    assert "6 validation pairs, mask-predict in 3:" in capsys.readouterr().out
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "masked")
    tokenizer = AutoTokenizer.from_pretrained(folder / "masked")
    assert not model.config.decoder_is_causal and not model.config.decoder.is_causal
    settings = model.generation_config
    assert settings.mask_token_id == tokenizer.mask_token_id
    sizes = [len(tokenizer(f"{a} und {b}")["input_ids"]) for a in NUMBERS for b in NUMBERS]
    targets = [len(tokenizer(f"{b} and {a}")["input_ids"]) for a in NUMBERS for b in NUMBERS]
    assert settings.length_ratio == pytest.approx(sum(targets) / sum(sizes), rel=0.02)
    assert settings.length_spread > 0
    texts = Translator(model.eval(), tokenizer)(["one und two", "six und six"])
    assert texts == Translator(model, tokenizer)(["one und two", "six und six"], custom_generate=MaskPredict())


def test_a_source_that_is_held_out_is_not_trained_on(capsys):
    pairs = [(str(number % 10), str(number)) for number in range(40)]
    train, validation = split_pairs(pairs, 3, seed=0)
    assert len(validation) == 3 and not {source for source, _ in train} & {source for source, _ in validation}
    left_out = len(pairs) - len(train) - 3
    assert left_out and capsys.readouterr().out.startswith(f"{left_out} pairs are left out of training: their sources")
    split_pairs(pairs[:10], 3, seed=0)
    assert capsys.readouterr().out == ""
    assert {*train} == {pair for pair in pairs if pair[0] not in {source for source, _ in validation}}


def test_the_recipe_of_2017_is_that_of_the_paper():
    recipe = yaml.safe_load((RECIPES / "transformer-base.yaml").read_text())
    assert recipe["preset"] == "transformer-base" and recipe["label_smoothing_factor"] == 0.1
    assert float(recipe["learning_rate"]) == pytest.approx(512**-0.5 * 4000**-0.5, rel=2e-3)
    assert (recipe["warmup_steps"], recipe["adam_beta2"], recipe["max_steps"]) == (4000, 0.98, 100_000)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--files", "absent.jsonl"], "absent.jsonl"),
        (["--source_field", "fr"], "record 1: the field 'fr' is missing from ['de', 'en']"),
        (["--validation_pairs", "36"], "36 pairs leave none to train on beside validation_pairs=36"),
        (["--preset", "transformer-bse"], "transformer-base"),
        (["--objective", "masked", "--tokenizer", "{folder}/maskless"], "The tokenizer has no ['mask_token_id']"),
        (["--output_dir", "{folder}/straight"], "holds checkpoints of an earlier run"),
    ],
)
def test_errors(folder, tmp_path, argv, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(folder, "unused", "--output_dir", str(tmp_path), *(text.format(folder=folder) for text in argv))


def test_options_are_checked_before_anything_is_read(folder, capsys):
    for argv, message in {
        ("--max_length", "1"): "max_length=1 must be at least 2.",
        ("--iterations", "0"): "iterations=0 must be at least 1.",
        ("--objective", "maskd"): "Unknown objective 'maskd'. Did you mean 'masked'?",
        (
            "--objective",
            "masked",
            "--scheduled_sampling",
            "linear",
        ): "scheduled_sampling='linear' is for the objective",
    }.items():
        with pytest.raises(SystemExit):
            run(folder, "unused", *argv)
        assert message in capsys.readouterr().err
