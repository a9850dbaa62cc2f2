"""Loading, training and reporting for the fine-tuning of classifiers and taggers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from trine.configuration.patterns import shorten
from trine.scripts.arguments.finetuning import FinetuneArguments, FinetuneTrainingArguments
from trine.scripts.arguments.parsing import unknown_name
from trine.scripts.jobs.cut_texts import say_cut
from trine.scripts.jobs.job import figures_of, save, write_report
from trine.tokenization.records import BadRecords
from trine.training.finetuning import FinetuneTrainer, load_config_and_tokenizer, load_model


def load_parts(arguments: Any, *, writes: bool = False) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """The config and the tokenizer of the model that a command's arguments name; see `load_config_and_tokenizer`."""
    return load_config_and_tokenizer(
        arguments.model,
        max_length=arguments.max_length,
        writes=writes,
        trust_remote_code=arguments.trust_remote_code,
    )


def load_labelled(
    auto_class: Any,
    arguments: FinetuneArguments,
    config: PreTrainedConfig,
    names: Sequence[str],
    checkpoint: str | None,
    problem_type: str | None = None,
) -> PreTrainedModel:
    """The model with a head for these labels, which have to be those of the checkpoint to go on from."""
    if checkpoint is not None:
        before = (AutoConfig.from_pretrained(checkpoint).id2label or {}).values()
        if [*before] != [*names]:
            raise ValueError(
                f"resume_from_checkpoint='{checkpoint}' has the labels {shorten(sorted(before), 10)}; the files have "
                f"{shorten(sorted(names), 10)}."
            )
    return load_model(
        auto_class,
        arguments.model,
        names,
        config=config,
        problem_type=problem_type,
        trust_remote_code=arguments.trust_remote_code,
    )


def make_trainer(model: PreTrainedModel, training: FinetuneTrainingArguments, **parts: Any) -> FinetuneTrainer:
    """The trainer with these parts; prints whether its batches have padding."""
    trainer = FinetuneTrainer(model, training, **parts)
    print(f"Batches {'without' if trainer.padding_free else 'with'} padding.")
    return trainer


def finish(trainer: FinetuneTrainer, metrics: dict[str, Any], loss_unit: str) -> None:
    """Saves the model, the metrics with the trainer's figures, and the picture of the loss; prints the scores."""
    metrics = {
        **metrics,
        "parameters": trainer.model.num_parameters(),  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
        "best_checkpoint": Path(trainer.state.best_model_checkpoint or "").name or None,
        **figures_of(trainer),
    }
    if folder := save(trainer):
        write_report(trainer, folder, metrics, unit=loss_unit)
        print(describe(metrics))


def count_records(read: int, data: tuple[list, list], bad: BadRecords, cut: int, max_length: int) -> dict[str, int]:
    """Counts the records for training and validation, and those that are left out or cut off."""
    training, validation = data
    left_out = read - len(training) - len(validation)
    if left_out:
        print(f"{left_out:,} records are left out of training: their texts are held out for validation.")
    say_cut(cut, len(training) + len(validation), "records", max_length)
    return {
        "training_records": len(training),
        "validation_records": len(validation),
        "bad_records": bad.count,
        "duplicates_left_out": left_out,
        "truncated_records": cut,
    }


def describe(metrics: dict[str, Any]) -> str:
    """The scores of the model beside those of the baseline, as a table."""
    rows = metrics["scores"]
    names = list(rows["model"])
    lines = [
        f"\nValidation, {metrics['validation_records']:,} records:",
        " " * 14 + "".join(f"{n:>12}" for n in names),
    ]
    for row, scores in rows.items():
        lines.append(f"{row:>14}" + "".join(f"{scores[n]:12.4f}" if n in scores else " " * 12 for n in names))
    return "\n".join(lines)


def check_metric(training: FinetuneTrainingArguments, names: Iterable[str]) -> None:
    """Raises a ValueError unless `metric_for_best_model` is one of the metrics."""
    wanted, known = training.metric_for_best_model, ["loss", *names]
    if wanted is not None and wanted.removeprefix("eval_") not in known:
        raise ValueError(unknown_name("metric_for_best_model", wanted, known))
