"""`trine pretrain` in two processes gives the model of one process, in an ordinary folder."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from support import forks
from transformers import AutoModelForCausalLM, AutoTokenizer

from trine.scripts import pretrain
from trine.scripts.jobs import job
from trine.tokenization.hub_data import HubData
from trine.training.objectives import pretraining as objectives


OPTIONS = """
vocab_size: 280
block_length: 32
validation_fraction: 0.2
config_overrides: {hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 2,
  intermediate_size: 16, mlp_layer_types: "dense, sparse", num_experts: 4, router_type: sigmoid,
  router_aux_loss_coef: 0.0, tie_word_embeddings: false}
max_steps: 4
adam_epsilon: 1e-3  # a smaller one turns rounding of tiny gradients into steps of full length
per_device_eval_batch_size: 1
logging_steps: 1
eval_strategy: "no"
save_steps: 2
save_only_model: true
baselines: false
disable_tqdm: true
use_cpu: true
precision: fp32
"""
ONE = ["--per_device_train_batch_size", "4"]
WAYS = {
    "tensor and experts": ["--tp_size", "2", "--ep_size", "2", "--per_device_train_batch_size", "4"],
    "sharded": ["--fsdp_size", "2", "--per_device_train_batch_size", "2"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    texts = [f"Line {n % 7}: the {word} is at number {n}.\n" * 3 for n in range(40) for word in ("reader", "writer")]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    recipe = f"files: [{folder / 'corpus.jsonl'}]\ncache_dir: {folder / 'cache'}\n"
    (folder / "recipe.yaml").write_text(OPTIONS + recipe)
    assert pretrain.main([*argv(folder, "one"), *ONE]) == 0
    return folder


def argv(folder, output):
    return ["--recipe", str(folder / "recipe.yaml"), "--output_dir", str(folder / output)]


def in_two_processes(folder, output, *options, script=("-m", "trine.scripts.cli")):
    """As torchrun starts them, which tests/scripts/test_pretrain.py does."""
    command = [*script, "pretrain", *argv(folder, output), "--ddp_backend", "gloo", *options]
    for done in forks.run_ranks(2, command, folder):
        assert done.returncode == 0, done.stderr[-3000:]


def history(folder, output, name):
    rows = json.loads((folder / output / "trainer_state.json").read_text())["log_history"]
    return torch.tensor([row[name] for row in rows if name in row])


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_do_what_one_does(folder, way):
    in_two_processes(folder, way, *WAYS[way])
    for name in ("loss", "num_input_tokens_seen"):
        assert len(history(folder, way, name)) >= 4
        torch.testing.assert_close(history(folder, way, name), history(folder, "one", name), rtol=1e-5, atol=1e-5)
    expected, actual = (json.loads((folder / output / "metrics.json").read_text()) for output in ("one", way))
    assert actual["parameters"] == expected["parameters"]
    if way != "sharded":  # there the trainer evaluates some rows twice, to fill the last batch
        assert actual["loss"]["model"] == pytest.approx(expected["loss"]["model"], rel=1e-5)
    weights, trained = (load_file(folder / output / "model.safetensors") for output in ("one", way))
    assert trained.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(trained[name], weight, rtol=1e-4, atol=2e-6)

    config = (json.loads((folder / output / "config.json").read_text()) for output in ("one", way))
    assert next(config) == next(config)
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder / way)("Line 3: the reader")["input_ids"]])
    models = (AutoModelForCausalLM.from_pretrained(folder / output).eval() for output in ("one", way))
    one, two = (model(ids).logits for model in models)
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    assert (folder / way / "checkpoint-2" / "model.safetensors").is_file()
    assert not (folder / way / "checkpoint-2" / "optimizer.pt").exists()


# Runs the command in each process, and writes a line for each time that it reads the data set or makes tokens.
COUNTED = """
import os, sys
from trine.scripts import cli
from trine.training.objectives import pretraining as objectives
from trine.tokenization.hub_data import HubData

def counted(name, function):
    def count(*args, **kwargs):
        with open(os.environ["COUNTS"], "a") as file:
            file.write(f"{name} {os.environ['RANK']}\\n")
        return function(*args, **kwargs)
    return count

HubData.records = counted("read", HubData.records)
objectives.write_tokens = counted("tokens", objectives.write_tokens)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_tokenise_a_named_data_set_once(folder, tmp_path, monkeypatch):
    """One of them reads it, and both train; a later run finds what was made."""
    (tmp_path / "data").mkdir()
    shutil.copy(folder / "corpus.jsonl", tmp_path / "data" / "train.jsonl")
    monkeypatch.setenv("COUNTS", str(tmp_path / "counts"))
    options = ["--per_device_train_batch_size", "2", "--cache_dir", str(tmp_path / "cache"), "--files"]
    options.append(f"hf:{tmp_path / 'data'}")
    in_two_processes(folder, "named", *options, script=["-c", COUNTED])
    counts = (tmp_path / "counts").read_text().splitlines()
    assert sorted(counts) == ["read 0"] * 3 + ["tokens 0"]
    assert len([*(tmp_path / "cache").iterdir()]) == 3  # what was counted, the tokenizer and the tokens
    # The data of one file, whose training with 4 rows in one process is that of 2 rows in each of two.
    torch.testing.assert_close(history(folder, "named", "loss"), history(folder, "one", "loss"), rtol=1e-5, atol=1e-5)

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(forks.HOME.name, "datasets"))
    for place, name in ((HubData, "records"), (objectives, "write_tokens")):
        monkeypatch.setattr(place, name, lambda *_, **__: pytest.fail("it is there"))
    assert pretrain.main([*argv(folder, "named again"), *options]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tp_size", "2"], "tp_size=2: tp_size * fsdp_size=2 must be the number of processes, which is 1."),
        (["--ep_size", "2"], "ep_size=2 must be a multiple of tp_size=1 and divide the number of processes"),
    ],
)
def test_what_one_process_cannot_do(folder, options, message):
    with pytest.raises(SystemExit) as error:
        pretrain.main([*argv(folder, "refused"), *options])
    assert str(error.value).startswith(f"trine: {message}")


def test_tied_embeddings_are_refused_before_anything_is_read(folder, monkeypatch):
    monkeypatch.setattr(pretrain, "check_launch", lambda *args: None)  # as if torchrun had started two
    options = ["--fsdp_size", "2", "--config_overrides", "tie_word_embeddings=true", "--files", "nowhere.txt"]
    with pytest.raises(SystemExit, match="trine: tie_word_embeddings=True with fsdp_size=2"):
        pretrain.main([*argv(folder, "refused"), *options])


def test_an_interrupted_run_that_saves_no_optimizer_promises_no_resuming(folder, monkeypatch, capsys):
    class Interrupted(job.InterruptCallback):
        def on_step_begin(self, *args, **kwargs):
            self.interrupted = True

    monkeypatch.setattr(job, "InterruptCallback", Interrupted)
    assert pretrain.main([*argv(folder, "interrupted"), *ONE]) == 130
    assert "step 1. Its checkpoint holds the weights." in capsys.readouterr().out
