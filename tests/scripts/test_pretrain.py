"""The main job on a text of a few lines: train, resume, generate, and refuse what cannot work."""

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from trine.scripts import generate, pretrain, train_tokenizer
from trine.scripts.jobs import job
from trine.tokenization.hub_data import HubData
from trine.training.data.corpus import Corpus
from trine.training.data.packing import PackedBlocks
from trine.training.measures.baselines import ngram_losses
from trine.training.objectives import pretraining as objectives
from trine.training.objectives.span_corruption import SENTINELS


DOCUMENTS = [f"Line {n % 7}: the {word} is at number {n}.\n" * 3 for n in range(40) for word in ("reader", "writer")]

OPTIONS = """
vocab_size: 280
block_length: 32
validation_fraction: 0.2
config_overrides: {hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 2,
  intermediate_size: 16, mlp_layer_types: "dense, sparse", num_experts: 4, router_type: sigmoid}
max_steps: 4
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
logging_steps: 1
eval_strategy: "no"
save_steps: 2
disable_tqdm: true
use_cpu: true
precision: fp32
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    lines = [json.dumps({"text": document}) for document in DOCUMENTS]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "recipe.yaml").write_text(f"{OPTIONS}files: [{folder}/corpus.jsonl]\ncache_dir: {folder}/cache\n")
    assert run(folder, "straight") == 0
    return folder


def run(folder, output, *argv):
    return pretrain.main(["--recipe", str(folder / "recipe.yaml"), "--output_dir", str(folder / output), *argv])


def test_a_data_set_by_name_is_tokenised_once(folder, tmp_path, monkeypatch):
    """It is read to be counted, for the tokenizer and for the tokens of both parts; a later run reads nothing."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    read, records = [], HubData.records
    monkeypatch.setattr(HubData, "records", lambda self, fields: read.append(fields) or records(self, fields))
    (tmp_path / "data").mkdir()
    shutil.copy(folder / "corpus.jsonl", tmp_path / "data" / "train.jsonl")
    words = ["--cache_dir", str(tmp_path / "cache"), "--max_steps", "1", "--save_strategy", "no", "--files"]
    words += [f"hf:{tmp_path / 'data'}:default:train"]
    assert run(folder, "unused", "--output_dir", str(tmp_path / "first"), *words) == 0
    assert len(read) == 3 and all(set(fields) == {"text"} for fields in read)
    monkeypatch.setattr(objectives, "write_tokens", lambda *_, **__: pytest.fail("they are there"))
    assert run(folder, "unused", "--output_dir", str(tmp_path / "second"), *words) == 0
    assert len(read) == 3 and len([*(tmp_path / "cache").iterdir()]) == 3
    assert losses(tmp_path, "first") == losses(tmp_path, "second") != []


def losses(folder, output):
    history = json.loads((folder / output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_what_a_run_leaves(folder):
    output = folder / "straight"
    names = {path.name for path in output.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "modeling_trine.py"} <= names
    assert {"checkpoint-2", "checkpoint-4", "metrics.json"} <= names
    for name in ("loss.png", "expert-load.png", "training.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    config = json.loads((output / "config.json").read_text())
    assert config["use_cache"] is True
    assert config["vocab_size"] == 280 and config["eos_token_id"] == 0 and config["pad_token_id"] == 1
    assert len(losses(folder, "straight")) == 4
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    assert all(entry["tokens_per_second"] > 0 and entry["mfu"] > 0 for entry in history if "loss" in entry)


def make_blocks(documents, tokenizer):
    ids = tokenizer(documents, add_special_tokens=False)["input_ids"]
    return PackedBlocks(torch.tensor([id for row in ids for id in [*row, tokenizer.eos_token_id]]), 32).blocks


def test_metrics_are_those_of_the_saved_model(folder):
    output = folder / "straight"
    metrics = json.loads((output / "metrics.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(output)
    corpus = Corpus([folder / "corpus.jsonl"], validation_fraction=0.2, seed=42)
    parts = (list(corpus.texts(part)) for part in ("validation", "training"))  # a record is one piece
    blocks, train_tokens = (make_blocks(documents, tokenizer) for documents in parts)
    model = AutoModelForCausalLM.from_pretrained(output).eval()
    with torch.no_grad():
        scores = model(input_ids=blocks).logits.log_softmax(-1)[:, :-1].gather(2, blocks[:, 1:, None])
    assert metrics["loss"]["model"] == pytest.approx(-scores.mean().item(), rel=1e-5)
    expected = ngram_losses(train_tokens.flatten(), blocks, 280)
    assert metrics["loss"]["unigram"] == pytest.approx(expected.unigram)
    assert metrics["loss"]["bigram"] == pytest.approx(expected.bigram)
    assert metrics["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert (metrics["training_tokens"], metrics["validation_tokens"]) == (train_tokens.numel(), blocks.numel())
    assert metrics["bad_records"] == 0


def test_the_table_names_all_three_losses():
    metrics = {"validation_tokens": 1234, "loss": {"unigram": 6.0, "bigram": 4.0, "model": 3.0}}
    lines = pretrain.describe(metrics).splitlines()
    assert "1,234 tokens" in lines[1]
    rows = [line.split() for line in lines[3:]]
    assert rows == [[name, f"{loss:.3f}", f"{math.exp(loss):.1f}"] for name, loss in metrics["loss"].items()]


def test_resume_is_exact(folder):
    """Two steps, and two more in a second run, give the losses and parameters of four in one."""
    first = folder / "resumed" / "checkpoint-2"
    first.parent.mkdir()
    (folder / "straight" / "checkpoint-2").rename(first)
    assert run(folder, "resumed", "--resume_from_checkpoint", "last") == 0
    assert losses(folder, "resumed") == losses(folder, "straight")
    straight, resumed = (load_file(folder / name / "model.safetensors") for name in ("straight", "resumed"))
    assert straight.keys() == resumed.keys()
    for name, expected in straight.items():
        assert torch.equal(expected, resumed[name]), name
    before = load_file(first / "model.safetensors")
    assert not all(torch.equal(before[name], resumed[name]) for name in before)


def test_a_ready_tokenizer_and_document_boundaries(folder):
    assert (
        train_tokenizer.main(
            ["--files", str(folder / "corpus.jsonl"), "--output_dir", str(folder / "tokenizer"), "--vocab_size", "270"]
        )
        is None
    )
    options = ["--tokenizer", str(folder / "tokenizer"), "--document_boundaries", "--max_steps", "1", "--no_baselines"]
    assert run(folder, "boundaries", *options, "--config_overrides", "mlp_layer_types=dense") == 0
    metrics = json.loads((folder / "boundaries" / "metrics.json").read_text())
    assert metrics["vocabulary"] == 270 and set(metrics["loss"]) == {"model"}
    assert not (folder / "boundaries" / "expert-load.png").exists()


def test_interrupt(folder, monkeypatch, capsys):
    class Interrupted(job.InterruptCallback):
        def on_step_begin(self, *args, **kwargs):
            self.interrupted = True

    monkeypatch.setattr(job, "InterruptCallback", Interrupted)
    assert run(folder, "interrupted") == 130
    assert "step 1. Go on with --resume_from_checkpoint last" in capsys.readouterr().out
    assert (folder / "interrupted" / "checkpoint-1" / "optimizer.pt").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--files", "absent"], "'absent' does not exist"),
        (["--files", "{folder}/empty.txt"], "0 documents of 0 characters are too little text"),
        (["--files", "{folder}/short.txt"], r"validation text has .* fewer than one block of 32 \(block_length=32\)"),
        (["--block_length", "1000"], "block_length=1000 is above max_position_embeddings=512"),
        (["--output_dir", "{folder}/short.txt/x"], "cannot be written"),
        (["--output_dir", "{folder}/straight"], "checkpoints of an earlier run"),
        (["--resume_from_checkpoint", "{folder}/absent"], "neither a folder nor 'last'"),
        (["--preset", "tinny"], "tiny"),
        (["--config_overrides", "hiden_size=8"], "hidden_size"),
        (["--config_overrides", "vocab_size=279"], "vocab_size=279 is below the 280 tokens"),
        (["--config_overrides", "hidden_size"], "is not key=value"),
        (["--config_overrides", "hidden_size=many"], "hidden_size"),
        (["--validation_fraction", "2"], "validation_fraction=2.0 must"),
        (
            ["--objective", "masked_next_sentence", "--files", "{folder}/five.jsonl"],
            r"The validation text has 1 document; objective='masked_next_sentence' .* validation_fraction=0\.2",
        ),
        (["--vocab_size", "20"], "vocab_size=20 is below 258"),
    ],
)
def test_errors(folder, tmp_path, argv, message):
    (folder / "empty.txt").write_text("")
    (folder / "short.txt").write_text("a line\n" * 40)
    (folder / "five.jsonl").write_text('{"text": "One line. Two lines."}\n' * 5)
    output = ["--output_dir", str(tmp_path)]
    with pytest.raises(SystemExit, match=message) as stop:
        pretrain.main(
            ["--recipe", str(folder / "recipe.yaml"), *output, *(text.format(folder=folder) for text in argv)]
        )
    assert str(stop.value).startswith("trine: ")


def sample(folder, *argv):
    generate.main(["--model", str(folder / "straight"), "--max_new_tokens", "8", *argv])


def test_generate_streams_what_it_returns(folder, capsys):
    sample(folder, "--text", "Line 3:", "--temperature", "0")
    streamed = capsys.readouterr().out
    sample(folder, "--text", "Line 3:", "--temperature", "0", "--no_stream")
    assert capsys.readouterr().out == streamed
    model, tokenizer = (auto.from_pretrained(folder / "straight") for auto in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer("Line 3:", return_tensors="pt").input_ids
    for _ in range(8):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    assert streamed.strip("\n") == tokenizer.decode(ids[0], skip_special_tokens=True).strip("\n")


def test_generate_from_standard_input_at_three_temperatures(folder, capsys, monkeypatch):
    for _ in range(2):
        monkeypatch.setattr("sys.stdin", io.StringIO("Line\n"))
        sample(folder, "--temperatures", "0.2,0.8,1.2", "--top_k", "50", "--top_p", "0.9", "--min_p", "0.01")
    first, second = capsys.readouterr().out.split("--- temperature 0.2 ---")[1:]
    assert first == second  # the seed decides
    assert first.count("Line") >= 3 and "--- temperature 1.2 ---" in first


def test_a_batch_of_prompts_equals_one_by_one(folder):
    model, tokenizer = (auto.from_pretrained(folder / "straight") for auto in (AutoModelForCausalLM, AutoTokenizer))
    prompts = ["Line 3: the reader", "L", ""]
    for options in (
        {"max_new_tokens": 8, "do_sample": False},
        {"max_new_tokens": 6, "num_beams": 3, "do_sample": False},
    ):
        together = generate.continue_prompts(model, tokenizer, prompts, **options)
        assert together == [generate.continue_prompts(model, tokenizer, [prompt], **options)[0] for prompt in prompts]
        assert [text.startswith(prompt) for text, prompt in zip(together, prompts, strict=True)] == [True] * 3


def test_several_prompts_are_printed_apart(folder, capsys):
    sample(folder, "--text", "Line 1", "Line 2", "--num_beams", "2")
    first, second = capsys.readouterr().out.split("\n---\n")
    assert first.startswith("Line 1") and second.startswith("Line 2")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--temperature", "-1"], "temperature=-1.0 is below 0"),
        (["--temperatures", "1,hot"], "temperatures='1,hot' is not a list"),
        (["--max_new_tokens", "0"], "max_new_tokens=0 must be at least 1"),
    ],
)
def test_generate_errors(folder, capsys, argv, message):
    with pytest.raises(SystemExit):
        generate.main(["--model", str(folder / "straight"), *argv])
    assert message in capsys.readouterr().err


def test_generate_needs_a_model(tmp_path):
    with pytest.raises(SystemExit, match="trine generate: "):
        generate.main(["--model", str(tmp_path), "--text", "x"])


@pytest.mark.parametrize(
    ("objective", "argv"),
    [
        ("masked", []),
        ("masked", ["--whole_words", "tokenizer"]),
        ("masked_next_sentence", []),
        ("masked_next_sentence", ["--preset", "bert-base", "--whole_words", "tokenizer"]),
    ],
)
def test_an_encoder(folder, tmp_path, objective, argv):
    argv = ["--objective", objective, "--output_dir", str(tmp_path / "encoder"), "--mlm_probability", "0.5", *argv]
    options = ["--config_overrides", "mlp_layer_types=dense", "--vocab_size", "120", "--save_strategy", "no"]
    assert run(folder, "encoder", *argv, *options) == 0
    output = tmp_path / "encoder"
    config = json.loads((output / "config.json").read_text())
    assert config["is_causal"] is False and config["vocab_size"] == 120
    expected = {"masked": "TrineForMaskedLM", "masked_next_sentence": "TrineForPreTraining"}[objective]
    assert config["architectures"] == [expected]
    assert config["type_vocab_size"] == (2 if expected == "TrineForPreTraining" else 0)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.mask_token == "[MASK]"
    assert ("token_type_ids" in tokenizer("a", "b")) == (config["type_vocab_size"] > 0)
    metrics = json.loads((output / "metrics.json").read_text())
    assert set(metrics["loss"]) == {"unigram", "model"}
    assert metrics["loss"]["model"] == pytest.approx(math.log(120) + math.log(2) * ("next" in objective), rel=0.2)


def test_an_encoder_decoder(folder, tmp_path):
    options = ["--preset", "tiny", "--vocab_size", "480", "--save_strategy", "no", "--logging_steps", "1"]
    fields = ["hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=16"]
    recipe = tmp_path / "recipe.yaml"
    text = (folder / "recipe.yaml").read_text()
    recipe.write_text(re.sub(r"config_overrides: {[^}]*}", f"config_overrides: {json.dumps(fields)}", text))
    argv = [
        "--recipe",
        str(recipe),
        "--objective",
        "span_corruption",
        "--output_dir",
        str(tmp_path / "model"),
        *options,
    ]
    assert pretrain.main(argv) == 0
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert config["architectures"] == ["TrineForConditionalGeneration"] and "use_cache" not in config
    assert config["decoder_start_token_id"] == tokenizer.pad_token_id
    assert all(tokenizer.decode(tokenizer(mark, add_special_tokens=False)["input_ids"]) == mark for mark in SENTINELS)
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["loss"]["model"] == pytest.approx(math.log(480), rel=0.1)


@pytest.mark.slow
def test_two_processes_train_the_same_model(folder, tmp_path):
    """Tokenizer, data, balanced experts and metrics, too; each process has half of the rows."""
    exact = ["--config_overrides", "router_aux_loss_coef=0"]  # that loss is no sum over rows
    assert run(folder, "one", "--output_dir", str(tmp_path / "one"), *exact) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "trine.scripts.cli", "pretrain", "--recipe", str(folder / "recipe.yaml"), *exact]
    command += ["--per_device_train_batch_size", "1", "--ddp_backend", "gloo", "--cache_dir", str(tmp_path / "cache")]
    result = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-5, msg=name)
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5) and two["steps"] == one["steps"]


@pytest.mark.filterwarnings("ignore")
def test_energy_and_a_tracker(folder, tmp_path):
    pytest.importorskip("codecarbon")
    pytest.importorskip("tensorboard")
    options = ["--energy_country", "DEU", "--report_to", "tensorboard", "--save_strategy", "no"]
    assert run(folder, "energy", "--output_dir", str(tmp_path), *options) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["energy_kwh"] > 0 and metrics["co2_kg"] > 0
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_a_second_run_finds_tokenizer_and_tokens(folder, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("It is done again.")

    monkeypatch.setattr(objectives, "write_tokens", refuse)
    monkeypatch.setattr(objectives.CausalObjective, "train_tokenizer", refuse)
    assert run(folder, "again", "--output_dir", str(tmp_path), "--save_strategy", "no") == 0
    names = ("model.safetensors", "tokenizer.json")
    assert all((tmp_path / name).read_bytes() == (folder / "straight" / name).read_bytes() for name in names)


def test_bad_records_are_reported_and_left_out_on_request(folder, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": 1}\n')
    files = [
        "--files",
        str(folder / "corpus.jsonl"),
        str(tmp_path / "bad.jsonl"),
        "--output_dir",
        str(tmp_path / "model"),
    ]
    with pytest.raises(SystemExit, match="1 records cannot be used:\n  '.*bad.jsonl', record 1: the field 'text'"):
        run(folder, "bad", *files)
    with pytest.warns(UserWarning, match="1 records cannot be used"):
        assert run(folder, "bad", *files, "--skip_bad_records", "--max_steps", "1") == 0
    assert json.loads((tmp_path / "model" / "metrics.json").read_text())["bad_records"] == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--objective", "maskd"], "Unknown objective 'maskd'. Did you mean 'masked'?"),
        (["--whole_words", "tokenizer"], "objective='causal' masks none"),
        (["--objective", "span_corruption", "--noise_density", "2"], "noise_density=2.0 must lie between"),
        (["--objective", "span_corruption", "--document_boundaries"], "does not apply to objective='span_corruption'"),
        (["--objective", "masked", "--whole_words", "x"], "whole_words='x' is not among"),
        (["--objective", "masked", "--mlm_probability", "0"], "mlm_probability=0.0 must lie between"),
        (["--objective", "masked", "--document_boundaries"], "document_boundaries=True says nothing new"),
        (["--objective", "masked", "--config_overrides", "is_causal=true"], "is_causal=True, but objective='masked'"),
        (
            ["--preset", "bert-base", "--config_overrides", "is_causal=false"],
            "is_causal=False, but objective='causal'",
        ),
        (["--objective", "masked", "--block_length", "3"], "max_length=3 must be at least 4"),
    ],
)
def test_errors_of_objectives(folder, tmp_path, argv, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(folder, "unused", "--output_dir", str(tmp_path), *argv)
