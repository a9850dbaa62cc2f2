"""Ways to train that must end with the same weights: accumulation, processes, shards, resuming, and being killed."""

import json
import os
import random
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import forks
from transformers import AutoModelForCausalLM, TrainingArguments

from trine import TrineConfig, TrineForCausalLM
from trine.training.run.trainers import TrineTrainer


# Rows a process, accumulation, and processes: eight rows in every optimizer step.
WAYS = {
    "one process": (8, 1, 1),
    "accumulation": (4, 2, 1),
    "accumulation row by row": (1, 8, 1),
    "two processes": (4, 1, 2),
    "two processes with accumulation": (2, 2, 2),
    "FSDP2": (4, 1, 2),
}
STEPS = 4


def rows() -> list[dict[str, torch.Tensor]]:
    """Texts of different lengths, so that the mean over rows is not that over tokens."""
    ids = torch.randint(3, 60, (32, 20), generator=torch.Generator().manual_seed(0))
    lengths = 5 + torch.arange(32) % 15
    masks = torch.arange(20) < lengths[:, None]
    labels = ids.masked_fill(~masks, -100)
    return [
        {"input_ids": row, "attention_mask": mask.long(), "labels": label}
        for row, mask, label in zip(ids, masks, labels, strict=True)
    ]


def train(folder: Path, way: str, resume: str | None = None, **options) -> None:
    """Trains the model in `folder/model` and saves the weights to `folder/WAY.pt`."""
    batch, accumulation, processes = WAYS[way]
    loading = {}
    if way == "FSDP2":  # before the trainer does, which would know nothing of the shards
        from transformers.distributed import DistributedConfig

        torch.distributed.init_process_group("gloo")
        loading["distributed_config"] = DistributedConfig(fsdp_size=2)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", **loading)
    arguments = TrainingArguments(
        output_dir=str(folder / way),
        max_steps=STEPS,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.01,
        adam_epsilon=1e-3,  # a smaller one turns rounding of tiny gradients into steps of full length
        label_smoothing_factor=0.1,
        logging_steps=1,
        use_cpu=True,
        disable_tqdm=True,
        ddp_backend="gloo" if processes > 1 else None,
        **{"save_strategy": "no", **options},
    )
    trainer = TrineTrainer(model, arguments, train_dataset=rows())
    trainer.train(resume_from_checkpoint=resume)
    weights = {
        name: weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        for name, weight in model.state_dict().items()
    }
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        torch.save({"weights": weights, "losses": losses}, folder / f"{way}.pt")


def launch(folder: Path, way: str) -> None:
    """Trains in as many processes as the way has."""
    for done in forks.run_ranks(WAYS[way][2], [__file__, str(folder), way], folder):
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("equivalence")
    torch.manual_seed(0)
    config = TrineConfig.from_preset(
        "tiny",
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=3,
        attention_types="full, sliding, simplicial",
        sliding_window=8,
        simplicial_window=8,
        simplicial_second_window=3,
        tie_word_embeddings=False,  # the library's FSDP2 trains tied ones otherwise (docs/measurements/log.md)
        use_cache=False,
    )
    TrineForCausalLM(config).save_pretrained(folder / "model")
    train(folder, "one process")
    return folder


def load(folder: Path, way: str) -> dict:
    return torch.load(folder / f"{way}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way != "one process"])
def test_every_way_gives_the_same_weights(folder, way):
    launch(folder, way) if WAYS[way][2] > 1 else train(folder, way)
    actual, expected = load(folder, way), load(folder, "one process")
    torch.testing.assert_close(torch.tensor(actual["losses"]), torch.tensor(expected["losses"]), rtol=1e-5, atol=1e-5)
    assert actual["weights"].keys() == expected["weights"].keys()
    before = load_file(folder / "model" / "model.safetensors")
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(actual["weights"][name], weight, rtol=1e-4, atol=2e-6, msg=name)
        assert not torch.equal(weight, before[name]), name  # it has learned


def test_a_resumed_run_is_bit_for_bit_the_same(folder):
    """A run that saves after two of the four steps, and a second one that goes on from there."""
    expected = load(folder, "one process")
    train(folder, "one process", save_strategy="steps", save_steps=2)
    (folder / "one process.pt").unlink()
    train(folder, "one process", resume=str(folder / "one process" / "checkpoint-2"))
    actual = load(folder, "one process")
    assert actual["losses"] == expected["losses"]
    for name, weight in expected["weights"].items():
        assert torch.equal(actual["weights"][name], weight), name


SENTENCES = [{"text": f"Sentence {n} tells of {n % 7} and of {n % 5} things, and ends.\n" * 4} for n in range(60)]
KILLS, LAST = int(os.environ.get("TRINE_KILLS", "5")), 60


def pretrain(folder: Path, output: str, *options: str) -> BaseProcess:
    argv = ["pretrain", "--files", str(folder / "text.jsonl"), "--cache_dir", str(folder / "cache")]
    argv += ["--output_dir", str(folder / output), "--vocab_size", "300", "--block_length", "32", "--use_cpu"]
    argv += ["--max_steps", str(LAST), "--save_steps", "1", "--per_device_train_batch_size", "2", "--no_baselines"]
    argv += ["--config_overrides", "hidden_size=16", "num_hidden_layers=2", "num_attention_heads=2"]
    argv += ["num_key_value_heads=2", "intermediate_size=16", "hidden_dropout=0.1", "--eval_strategy", "no"]
    command = ["-m", "trine.scripts.cli", *argv, "--disable_tqdm", "true", *options]
    return forks.start(command, folder, os.environ, (folder / "out.txt", folder / "err.txt"))


def exit_code_of(process: BaseProcess) -> int | None:
    process.join(300)
    return process.exitcode


def wait_for(process: BaseProcess, file: Path, seconds: float) -> None:
    """Until the file is there, and then a moment."""
    while process.is_alive() and not file.exists():
        time.sleep(0.002)
    time.sleep(seconds)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    """SIGKILL at random moments, while it starts and in the middle of saving, of its first checkpoint too.

    It is always the same command. TRINE_KILLS says how often.
    """
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SENTENCES))
    assert exit_code_of(pretrain(tmp_path, "undisturbed")) == 0
    moments = random.Random(0)
    for kill in range(KILLS):
        process = pretrain(tmp_path, "killed", "--resume_from_checkpoint", "last")
        saved = f"checkpoint-{max(1, kill * LAST // (KILLS + 2))}"
        awaited, seconds = [("", 0.5), (saved, 0.02), (saved, 0.1)][min(kill, 2)]
        wait_for(process, tmp_path / "killed" / awaited, moments.uniform(0, seconds))
        process.kill()
        assert exit_code_of(process) == -signal.SIGKILL, "it had ended before it was killed"
    assert exit_code_of(pretrain(tmp_path, "killed", "--resume_from_checkpoint", "last")) == 0
    undisturbed, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("undisturbed", "killed"))
    assert undisturbed.keys() == killed.keys()
    for name, weight in undisturbed.items():
        assert torch.equal(weight, killed[name]), name


if __name__ == "__main__":  # one of the processes
    train(Path(sys.argv[1]), sys.argv[2])
