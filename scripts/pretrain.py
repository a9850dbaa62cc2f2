"""Pretrain a decoder or an encoder on text files: tokenizer, model, plots and metrics in one folder."""

import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from trine.scripts.arguments import parse_arguments, unknown_name
from trine.scripts.objectives import OBJECTIVES, CausalObjective
from trine.scripts.plots import draw_expert_load, draw_losses
from trine.scripts.pretrain_arguments import PretrainArguments, PretrainTrainingArguments, parse_overrides
from trine.tokenization.text_files import iterate_text_files
from trine.training.callbacks import ExpertLoadCallback, InterruptCallback
from trine.training.packing import split_documents


@dataclass
class Task:
    """All that training needs."""

    objective: CausalObjective
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    train_data: Sized
    validation_data: Sized
    collator: Callable | None
    checkpoint: str | None


def main(argv: Sequence[str] | None = None) -> int:
    arguments, training = parse_arguments(
        [PretrainArguments, PretrainTrainingArguments], argv, command="pretrain", description=__doc__
    )
    return 130 if pretrain(arguments, training) is None else 0


def pretrain(arguments: PretrainArguments, training: PretrainTrainingArguments) -> dict[str, Any] | None:
    """Do the whole job and return the metrics, or None if Ctrl-C ended it. Exits with a message on bad input."""
    try:
        task = prepare(arguments, training)
    except (OSError, ValueError, StrictDataclassError) as error:
        sys.exit(f"trine: {error}")
    interrupt = InterruptCallback()
    trainer = Trainer(
        task.model,
        training,
        train_dataset=task.train_data,  # pyright: ignore[reportArgumentType] a list is a dataset
        eval_dataset=task.validation_data,  # pyright: ignore[reportArgumentType]
        data_collator=task.collator,
        processing_class=task.tokenizer,
        callbacks=[ExpertLoadCallback(), interrupt],
    )
    trainer.train(resume_from_checkpoint=task.checkpoint)
    if interrupt.interrupted:
        print(f"Interrupted at step {trainer.state.global_step}. Go on with --resume_from_checkpoint last.")
        return None
    return finish(arguments, task, trainer)


def prepare(arguments: PretrainArguments, training: PretrainTrainingArguments) -> Task:
    """Read, split and tokenise the text, and make the model.

    Raises:
        OSError: files that cannot be read, or an output folder that cannot be written.
        ValueError: arguments that are wrong or do not fit together, or too little text.
        StrictDataclassError: a field of the config has the wrong type.
    """
    check_writable(Path(training.output_dir))
    checkpoint = find_checkpoint(training)
    overrides = parse_overrides(arguments.config_overrides)
    if arguments.objective not in OBJECTIVES:
        raise ValueError(unknown_name("objective", arguments.objective, OBJECTIVES))
    objective = OBJECTIVES[arguments.objective](arguments, training.seed)
    objective.make_config(**overrides)  # what is wrong here should not wait for the tokenizer
    documents = list(iterate_text_files(arguments.files, arguments.text_field))
    train_documents, validation_documents = split_documents(documents, arguments.validation_fraction, training.seed)

    if source := checkpoint or arguments.tokenizer:
        tokenizer = AutoTokenizer.from_pretrained(source)
    else:
        tokenizer = objective.train_tokenizer(
            train_documents, arguments.vocab_size, show_progress=not training.disable_tqdm
        )
    special_ids = {name: getattr(tokenizer, name) for name in objective.special_ids}
    config = objective.make_config(**{"vocab_size": len(tokenizer), **special_ids, **overrides})
    if config.vocab_size < len(tokenizer):
        raise ValueError(f"vocab_size={config.vocab_size} is below the {len(tokenizer)} tokens of the tokenizer.")
    if config.max_position_embeddings < arguments.block_length:
        raise ValueError(
            f"block_length={arguments.block_length} is above max_position_embeddings="
            f"{config.max_position_embeddings}; change one of them (the latter in config_overrides)."
        )
    parts = {"training": train_documents, "validation": validation_documents}
    train_data, validation_data = (
        objective.make_data(
            name, part, tokenizer, description=None if training.disable_tqdm else f"Tokenising the {name} text"
        )
        for name, part in parts.items()
    )
    set_seed(training.seed)
    return Task(
        objective=objective,
        tokenizer=tokenizer,
        model=objective.model(config),
        train_data=train_data,
        validation_data=validation_data,
        collator=objective.make_collator(tokenizer),
        checkpoint=checkpoint,
    )


def finish(arguments: PretrainArguments, task: Task, trainer: Trainer) -> dict[str, Any]:
    """Evaluate, compare with the baselines, draw and save; return the metrics, which metrics.json holds too."""
    history = trainer.state.log_history
    objective, train_data, validation_data = task.objective, task.train_data, task.validation_data
    losses = {}
    if arguments.baselines:
        losses = objective.baselines(train_data, validation_data, len(task.tokenizer))
    set_seed(trainer.args.seed)  # decides which tokens are masked
    metrics = {
        "loss": {**losses, "model": trainer.evaluate()["eval_loss"]},
        "parameters": task.model.num_parameters(),
        "vocabulary": len(task.tokenizer),
        "training_tokens": objective.count_tokens(train_data),
        "validation_tokens": objective.count_tokens(validation_data),
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "training_seconds": next(entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry),
    }
    task.model.config.use_cache = True  # the trainer has turned it off for training
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        folder = Path(str(trainer.args.output_dir))
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        draw_losses(history, losses, folder / "loss.png")
        if any("expert_load" in entry for entry in history):
            draw_expert_load(history, folder / "expert-load.png")
        print(describe(metrics))
    return metrics


def describe(metrics: dict[str, Any]) -> str:
    """The validation loss of the model beside those of the baselines, as a table."""
    lines = [f"\nValidation text, {metrics['validation_tokens']:,} tokens:", "            nats/token  perplexity"]
    lines += [f"{name:>10}  {loss:10.3f}  {math.exp(loss):10.1f}" for name, loss in metrics["loss"].items()]
    return "\n".join(lines)


def check_writable(folder: Path) -> None:
    """Make the folder if need be; raise an OSError that names it if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"output_dir='{folder}' cannot be written: {error.strerror}.") from error


def find_checkpoint(training: TrainingArguments) -> str | None:
    """The checkpoint to go on from, or None for a new run, which must not mix with an older one in its folder."""
    wanted, last = training.resume_from_checkpoint, get_last_checkpoint(training.output_dir)
    if wanted is None and last is not None:
        raise ValueError(
            f"output_dir='{training.output_dir}' holds checkpoints of another run: go on with "
            "--resume_from_checkpoint last, or choose another folder."
        )
    if wanted is not None and wanted.lower() in ("last", "true"):
        if last is None:
            raise ValueError(f"output_dir='{training.output_dir}' holds no checkpoint to go on from.")
        return last
    if wanted is not None and not Path(wanted).is_dir():
        raise FileNotFoundError(f"resume_from_checkpoint='{wanted}' is neither a folder nor 'last'.")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
