"""Arguments of the trainer that cannot work are told before anything is read; shares of few steps are kept apart."""

import pytest
import torch
from transformers.integrations import integration_utils

from trine.scripts.arguments.finetuning import FinetuneTrainingArguments
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.pretraining import PretrainTrainingArguments


def parse(*argv, kind=PretrainTrainingArguments):
    words = ["--use_cpu", *argv] if "--output_dir" in argv else ["--use_cpu", "--output_dir", "unused", *argv]
    (training,) = parse_arguments([kind], words, command="test", description=None)
    return training


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size=0 must be at least 1."),
        (["--per_device_eval_batch_size", "-1"], "per_device_eval_batch_size=-1 must be at least 1."),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps=0 must be at least 1."),
        (["--learning_rate", "nan"], "learning_rate=nan must be a finite number, at least 0."),
        (["--weight_decay", "inf"], "weight_decay=inf must be a finite number"),
        (["--num_train_epochs", "-1"], "num_train_epochs=-1.0 must be a finite number, at least 0."),
        (["--num_train_epochs", "0"], "num_train_epochs=0 and no max_steps: nothing would be trained."),
        (["--max_steps", "0"], "max_steps=0 would train nothing."),
        (["--report_to", "wandb"], "report_to='wandb' needs the package of that tracker, which is not installed."),
        (["--report_to", "wandbb"], "report_to='wandbb' is not one of ['none', 'all', "),
    ],
)
def test_errors(argv, message, capsys, monkeypatch):
    monkeypatch.setattr(integration_utils, "get_available_reporting_integrations", lambda: ["tensorboard"])
    with pytest.raises(SystemExit):
        parse(*argv)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is there, which is taken")
@pytest.mark.parametrize("kind", [PretrainTrainingArguments, FinetuneTrainingArguments])
def test_bf16_needs_no_other_option_where_there_is_only_a_cpu(kind):
    """transformers asks for use_cpu besides."""
    words = ["--bf16", "--output_dir", "unused"]
    (training,) = parse_arguments([kind], words, command="test", description=None)
    assert training.bf16 and training.use_cpu and training.device.type == "cpu"


def test_trackers_that_are_there(monkeypatch):
    monkeypatch.setattr(integration_utils, "get_available_reporting_integrations", lambda: ["wandb"])
    assert parse("--report_to", "wandb").report_to == ["wandb"] and parse("--report_to", "none").report_to == []


def test_evaluations_of_a_short_run_are_apart(capsys, monkeypatch):
    training = parse("--max_steps", "40", "--eval_steps", "0.05", "--save_steps", "0.5")
    assert (training.eval_steps, training.save_steps) == (10, 0.5)
    assert capsys.readouterr().out == "eval_steps=0.05 of max_steps=40 is every 2 steps: 10 are taken.\n"
    parse("--max_steps", "20", "--eval_steps", "0.05", "--save_steps", "0.5")
    assert capsys.readouterr().out == "eval_steps=0.05 of max_steps=20 is every step: 10 are taken.\n"
    assert parse("--max_steps", "4").eval_steps == 4  # once, at the end
    capsys.readouterr()
    assert parse("--max_steps", "200", "--eval_steps", "0.05").eval_steps == 0.05
    assert parse("--max_steps", "40", "--eval_steps", "2").eval_steps == 2  # a number of steps is meant so
    assert parse("--eval_steps", "0.05").eval_steps == 0.05  # epochs: how many steps is not known yet
    assert parse("--max_steps", "40", "--eval_strategy", "no").eval_steps == 0.1
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(PretrainTrainingArguments, "should_log", False)  # the second of two processes
    assert parse("--max_steps", "4").eval_steps == 4 and capsys.readouterr().out == ""


def test_the_best_checkpoint_can_still_be_kept():
    """Its trainer wants a checkpoint after whole numbers of evaluations."""
    steps = ["--eval_strategy", "steps", "--save_strategy", "steps"]
    for share in ("0.05", "0.25"):
        words = [*steps, "--max_steps", "50", "--eval_steps", "0.05", "--save_steps", share]
        training = parse(*words, kind=FinetuneTrainingArguments)
        expected = {"0.05": (10, 10), "0.25": (10, 20)}[share]
        assert training.load_best_model_at_end and (training.eval_steps, training.save_steps) == expected
