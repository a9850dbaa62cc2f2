"""Steps of every job that trains: begin, resume, stop, save and report."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

from trine.configuration.plugin_copies import check_apart
from trine.scripts.arguments.parsing import INPUT_ERRORS
from trine.scripts.jobs.memory import keep_freed_memory
from trine.scripts.reports.card import write_scores
from trine.scripts.reports.plots import draw_losses
from trine.training.run.callbacks import InterruptCallback, SpokenEarlyStopping
from trine.training.run.resuming import check_writable, find_checkpoint
from trine.training.run.resuming import train as train_or_tell


INTERRUPTED = 130  # the exit status of a process that Ctrl-C has ended


@contextmanager
def bad_input_ends(*others: type[Exception]) -> Iterator[None]:
    """Ends the process with one line where files or arguments cannot be used, or with one of the other errors."""
    try:
        yield
    except (*INPUT_ERRORS, *others) as error:
        sys.exit(f"trine: {error}")


def begin(training: TrainingArguments) -> str | None:
    """Finds the checkpoint to resume from; None for a new run.

    Raises:
        OSError: The output folder cannot be written, or the checkpoint is not there.
        ValueError: The output folder is that of a plugin, there is no whole checkpoint, or there
            is one but `resume_from_checkpoint` is not given.
    """
    check_writable(Path(str(training.output_dir)))
    check_apart(Path(str(training.output_dir)))
    try:
        return find_checkpoint(training)
    except ValueError as error:
        raise ValueError(f"{error}{'' if training.resume_from_checkpoint else resuming_command()}") from error


def resuming_command() -> str:
    """A sentence with the command that goes on with the run of this process's command; empty outside of `trine`."""
    program, *words = sys.argv
    if Path(program).name != "trine":
        return ""
    program = "trine" if shutil.which("trine") else os.path.relpath(program)
    return f" To go on: {shlex.join([program, *words, '--resume_from_checkpoint', 'last'])}"


def train(trainer: Trainer, checkpoint: str | None, early_stopping_patience: int = 0) -> bool:
    """Trains, with early stopping where the best model is kept; returns False if Ctrl-C ended it."""
    keep_freed_memory()
    interrupt = InterruptCallback()
    trainer.add_callback(interrupt)
    if early_stopping_patience and trainer.args.load_best_model_at_end:
        trainer.add_callback(SpokenEarlyStopping(early_stopping_patience))
    try:
        train_or_tell(trainer, checkpoint)
    except OSError as error:
        sys.exit(f"trine: {error}")
    if interrupt.interrupted:
        whole = "Go on with --resume_from_checkpoint last."
        rest = "Its checkpoint holds the weights." if trainer.args.save_only_model else whole
        print(f"Interrupted at step {trainer.state.global_step}. {rest}")
    return not interrupt.interrupted


def figures_of(trainer: Trainer) -> dict[str, Any]:
    """The figures of every run for metrics.json: steps, epochs, seconds."""
    times = [entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry]
    return {"steps": trainer.state.global_step, "epochs": trainer.state.epoch, "training_seconds": times[-1]}


def save(trainer: Trainer, model_folder: Path | None = None) -> Path | None:
    """Saves the model, by default where everything goes; returns that folder to the first process, None to others."""
    folder = Path(str(trainer.args.output_dir))
    trainer.save_model(str(model_folder or folder))
    trainer.save_state()
    return folder if trainer.is_world_process_zero() else None


def write_report(
    trainer: Trainer,
    folder: Path,
    metrics: Mapping[str, Any],
    baselines: Mapping[str, float] | None = None,
    unit: str = "nats per token",
) -> None:
    """Writes metrics.json, the picture of the loss in that unit beside the baselines, and the card's table of scores.

    Where nothing else was scored, the card tells the losses of `metrics["loss"]`: one, or those of several by name.
    """
    text = json.dumps(metrics, indent=2, ensure_ascii=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    draw_losses(trainer.state.log_history, {**(baselines or {})}, folder / "loss.png", unit=unit)
    if "scores" in metrics:
        write_scores(folder / "README.md", metrics["scores"])
    elif "loss" in metrics:
        loss = metrics["loss"]
        rows = loss if isinstance(loss, Mapping) else {"model": loss}
        write_scores(folder / "README.md", {name: {f"loss [{unit}]": value} for name, value in rows.items()})
