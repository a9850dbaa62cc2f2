"""What fine-tuning jobs have in common: reading and splitting records, loading, training, reporting."""

import json
import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import (
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)

from trine.scripts.arguments.finetuning import FinetuneArguments, FinetuneTrainingArguments
from trine.scripts.arguments.parsing import unknown_name
from trine.scripts.jobs.cut_texts import say_cut
from trine.scripts.jobs.new_heads import describe_new_weights, without_load_report
from trine.scripts.jobs.tokenizer_loading import fit_inputs, load_tokenizer
from trine.scripts.reports.plots import draw_losses
from trine.tokenization.records import BadRecords, find_sources, wrong_field
from trine.training.data.padding_free import PaddingFreeCollator
from trine.training.run.callbacks import (
    ExpertLoadCallback,
    InterruptCallback,
    RandomFeatureCallback,
    SpokenEarlyStopping,
)


Example = TypeVar("Example")


def read_examples(
    files: Iterable[str],
    fields: Mapping[str, type | tuple[type, ...]],
    read: Callable[[Mapping[str, Any]], Example],
    bad: BadRecords,
) -> list[Example]:
    """What `read` makes of each record with these fields; it raises a ValueError for one that is bad."""
    examples = []
    for source, records in find_sources(files, fields):
        for number, record in records:
            try:
                if isinstance(record, str):
                    raise ValueError(record)
                if reason := wrong_field(record, fields):
                    raise ValueError(reason)
                examples.append(read(record))
            except ValueError as error:
                bad.add(source, number, str(error))
    return examples


def hold_out(
    examples: Sequence[Example], strata: Sequence[Hashable], texts: Sequence[Hashable], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Examples for training and for validation: a share of each stratum is held out, and one of each never.

    A training example whose text is held out with another example is left out.

    Raises:
        ValueError: One of both would be empty.
    """
    members: dict[Hashable, list[int]] = {}
    for index in random.Random(seed).sample(range(len(examples)), len(examples)):
        members.setdefault(strata[index], []).append(index)
    held_out: list[int] = []
    seen = 0
    for _, group in sorted(members.items(), key=lambda item: str(item[0])):
        if len(group) > 1:
            seen += len(group)  # the sum is rounded, so that small strata are not all rounded down
            held_out += group[: min(max(0, round(fraction * seen) - len(held_out)), len(group) - 1)]
    hidden = {texts[index] for index in held_out}
    training = [example for example, text in zip(examples, texts, strict=True) if text not in hidden]
    if not held_out or not training:
        raise ValueError(
            f"validation_fraction={fraction:g} of {len(examples)} records leaves {len(training)} to train on and "
            f"{len(held_out)} to validate with."
        )
    return training, [examples[index] for index in held_out]


def load_parts(
    arguments: FinetuneArguments, *, writes: bool = False
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """The config and the tokenizer of the model, with a token for padding, which must allow `max_length`.

    Where the model `writes`, the tokenizer also tells where texts end.
    """
    options = {"trust_remote_code": arguments.trust_remote_code}
    config = AutoConfig.from_pretrained(arguments.model, **options)
    tokenizer = load_tokenizer(arguments.model, writes=writes, **options)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"The tokenizer of model='{arguments.model}' has no token for padding, nor for the end.")
        tokenizer.pad_token = tokenizer.eos_token
        print(f"The tokenizer has no token for padding: {tokenizer.eos_token!r} takes its place.")
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    fit_inputs(tokenizer, config)
    for name, limit in (
        ("max_position_embeddings", getattr(config, "max_position_embeddings", None)),
        ("model_max_length of the tokenizer", tokenizer.model_max_length),
    ):
        if limit is not None and arguments.max_length > limit:
            raise ValueError(f"max_length={arguments.max_length} is above {name}={limit}.")
    return config, tokenizer


def load_model(
    auto_class: Any,
    arguments: FinetuneArguments,
    config: PreTrainedConfig,
    names: Sequence[str],
    checkpoint: str | None,
    problem_type: Any = None,
) -> PreTrainedModel:
    """The model with a head for these labels, whose weights are random unless the checkpoint has them."""
    if checkpoint is not None:
        before = (AutoConfig.from_pretrained(checkpoint).id2label or {}).values()
        if [*before] != [*names]:
            raise ValueError(
                f"resume_from_checkpoint='{checkpoint}' has the labels {shorten(before)}; the files have "
                f"{shorten(names)}."
            )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = problem_type
    with without_load_report():
        model, info = auto_class.from_pretrained(
            arguments.model,
            config=config,
            dtype="float32",
            ignore_mismatched_sizes=True,  # the head of another set of labels is made anew
            trust_remote_code=arguments.trust_remote_code,
            output_loading_info=True,
        )
    if news := describe_new_weights(model, info):
        print(news)
    return model


class FinetuneTrainer(Trainer):
    """Trains on batches without padding where the model allows it; evaluates with padding, a row an example."""

    padding_free = False

    def get_train_dataloader(self):
        padding = self.data_collator
        if self.padding_free:
            self.data_collator = PaddingFreeCollator(padding)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = padding


def train(
    arguments: FinetuneArguments,
    training: FinetuneTrainingArguments,
    model: PreTrainedModel,
    checkpoint: str | None,
    *,
    padding_free: bool = True,
    **parts: Any,
) -> FinetuneTrainer | None:
    """Trains with `parts` of the trainer; None if Ctrl-C ended it. The model is then the best of all evaluations."""
    interrupt = InterruptCallback()
    callbacks = [ExpertLoadCallback(), RandomFeatureCallback(), interrupt]
    if arguments.early_stopping_patience and training.load_best_model_at_end:
        callbacks.append(SpokenEarlyStopping(arguments.early_stopping_patience))
    use_cache = vars(model.config).get("use_cache")
    trainer = FinetuneTrainer(model, training, callbacks=callbacks, **parts)
    # Trine's encoders and decoders alone keep the texts of a row apart by positions; no row can be cut for many GPUs.
    trainer.padding_free = padding_free and model.config.model_type == "trine" and training.n_gpu <= 1
    print(f"Batches {'without' if trainer.padding_free else 'with'} padding.")
    trainer.train(resume_from_checkpoint=checkpoint)
    vars(model.config).pop("use_cache", None)  # the trainer has set it, also where the config has no such field
    if use_cache is not None:
        model.config.use_cache = use_cache
    if interrupt.interrupted:
        print(f"Interrupted at step {trainer.state.global_step}. Go on with --resume_from_checkpoint last.")
        return None
    return trainer


def finish(trainer: FinetuneTrainer, metrics: dict[str, Any], loss_unit: str) -> dict[str, Any]:
    """Saves the model, the metrics with the trainer's figures, and the picture of the loss."""
    history = trainer.state.log_history
    metrics |= {
        "parameters": trainer.model.num_parameters(),  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "best_checkpoint": Path(trainer.state.best_model_checkpoint or "").name or None,
        "training_seconds": next(entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry),
    }
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        folder = Path(str(trainer.args.output_dir))
        text = json.dumps(metrics, indent=2, ensure_ascii=False)
        (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
        draw_losses(history, {}, folder / "loss.png", unit=loss_unit)
        print(describe(metrics))
    return metrics


def count_records(read: int, data: tuple[list, list], bad: BadRecords, cut: int, max_length: int) -> dict[str, int]:
    """How many records serve for what, and how many of them are cut off."""
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


def shorten(names: Iterable[str], most: int = 10) -> str:
    """The first of the sorted names, for a message."""
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


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
    """Whether `metric_for_best_model` is one of the metrics that there will be. Raises a ValueError if not."""
    wanted, known = training.metric_for_best_model, ["loss", *names]
    if wanted is not None and wanted.removeprefix("eval_") not in known:
        raise ValueError(unknown_name("metric_for_best_model", wanted, known))
