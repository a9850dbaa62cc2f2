"""Train an encoder-decoder on pairs of texts, such as sentences and their translations."""

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    Seq2SeqTrainingArguments,
    set_seed,
)

from trine import TrineForConditionalGeneration, TrineSeq2SeqConfig, train_unigram
from trine.scripts.arguments import parse_arguments, unknown_name
from trine.scripts.plots import draw_losses
from trine.scripts.pretrain_arguments import parse_overrides, trainer_default
from trine.training.callbacks import InterruptCallback
from trine.training.resuming import check_writable, find_checkpoint, train
from trine.training.scheduled_sampling import SCHEDULES, ScheduledSamplingTrainer


Pair = tuple[str, str]


@dataclass
class TranslatorArguments:
    """Data and model."""

    _argument_group_name = "data and model"

    files: list[str] = field(metadata={"help": "JSON-lines files, a pair of texts in a line."})
    source_field: str = field(default="source", metadata={"help": "Name of the text that is read."})
    target_field: str = field(default="target", metadata={"help": "Name of the text that is written."})
    tokenizer: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a tokenizer. By default one is trained on both texts."}
    )
    vocab_size: int = field(default=8192, metadata={"help": "Number of tokens of the tokenizer that is trained."})
    preset: str = field(default="transformer-base", metadata={"help": "Named size that the model starts from."})
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of TrineSeq2SeqConfig, or of both stacks, as key=value: num_hidden_layers=2. In a recipe "
            "a mapping, to which the command line adds.",
            "action": "extend",
        },
    )
    max_length: int = field(default=128, metadata={"help": "Tokens after which a text is cut off."})
    validation_pairs: int = field(default=1000, metadata={"help": "Pairs, drawn at random, that are held out."})
    scheduled_sampling: str = field(
        default="none",
        metadata={
            "help": f"How the share of true tokens falls that the decoder reads in training: {', '.join(SCHEDULES)}; "
            "the others are drawn from its own predictions."
        },
    )
    samples: int = field(default=5, metadata={"help": "Held-out pairs that are translated and printed in the end."})

    def __post_init__(self):
        for name, least in (("max_length", 2), ("validation_pairs", 1), ("samples", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.scheduled_sampling not in SCHEDULES:
            raise ValueError(unknown_name("scheduled_sampling", self.scheduled_sampling, SCHEDULES))


@dataclass
class TranslatorTrainingArguments(Seq2SeqTrainingArguments):
    """The trainer's arguments with the usual values for a small translator."""

    _argument_group_name = "training (transformers.Seq2SeqTrainingArguments)"

    output_dir: str = trainer_default("output_dir", "outputs/translator")
    num_train_epochs: float = trainer_default("num_train_epochs", 10.0)
    per_device_train_batch_size: int = trainer_default("per_device_train_batch_size", 32)
    learning_rate: float = trainer_default("learning_rate", 1e-3)
    lr_scheduler_type: str = trainer_default("lr_scheduler_type", "cosine")
    warmup_steps: float = trainer_default("warmup_steps", 0.05)
    adam_beta2: float = trainer_default("adam_beta2", 0.98)
    label_smoothing_factor: float = trainer_default("label_smoothing_factor", 0.1)
    logging_steps: float = trainer_default("logging_steps", 50)
    eval_strategy: str = trainer_default("eval_strategy", "steps")
    eval_steps: float | None = trainer_default("eval_steps", 0.1)
    save_strategy: str = trainer_default("save_strategy", "steps")
    save_steps: float = trainer_default("save_steps", 500)
    save_total_limit: int | None = trainer_default("save_total_limit", 2)
    report_to: str = trainer_default("report_to", "none")
    remove_unused_columns: bool = trainer_default("remove_unused_columns", False)
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "Checkpoint folder to go on from, or 'last' for the last one in output_dir."}
    )


def main(argv: Sequence[str] | None = None) -> int:
    arguments, training = parse_arguments(
        [TranslatorArguments, TranslatorTrainingArguments], argv, command="train-translator", description=__doc__
    )
    try:
        check_writable(Path(training.output_dir))
        checkpoint = find_checkpoint(training)
        train_pairs, validation_pairs = split_pairs(read_pairs(arguments), arguments.validation_pairs, training.seed)
        tokenizer = make_tokenizer(arguments, train_pairs, checkpoint, not training.disable_tqdm)
        set_seed(training.seed)
        model = TrineForConditionalGeneration(make_config(arguments, tokenizer))
    except (OSError, ValueError, StrictDataclassError) as error:
        sys.exit(f"trine: {error}")
    interrupt = InterruptCallback()
    trainer = ScheduledSamplingTrainer(
        model,
        training,
        train_dataset=encode(train_pairs, tokenizer, arguments.max_length),  # pyright: ignore[reportArgumentType] a list
        eval_dataset=encode(validation_pairs, tokenizer, arguments.max_length),  # pyright: ignore[reportArgumentType]
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        callbacks=[interrupt],
        schedule=arguments.scheduled_sampling,
    )
    try:
        train(trainer, checkpoint)
    except OSError as error:
        sys.exit(f"trine: {error}")
    if interrupt.interrupted:
        print(f"Interrupted at step {trainer.state.global_step}. Go on with --resume_from_checkpoint last.")
        return 130
    vars(model.config).pop("use_cache", None)  # the trainer sets it where the config has no such field
    metrics = {"loss": trainer.evaluate()["eval_loss"], "parameters": model.num_parameters()}
    metrics |= {"steps": trainer.state.global_step, "training_pairs": len(train_pairs)}
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        folder = Path(training.output_dir)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        draw_losses(trainer.state.log_history, {}, folder / "loss.png")
        print_samples(model, tokenizer, validation_pairs[: arguments.samples], arguments.max_length)
        smoothing = training.label_smoothing_factor
        print(f"\nValidation loss {metrics['loss']:.3f} nats a token, with label smoothing {smoothing:g}.")
    return 0


def read_pairs(arguments: TranslatorArguments) -> list[Pair]:
    """The pairs of all files.

    Raises:
        OSError: a file cannot be read.
        ValueError: a line is not a JSON object with both texts.
    """
    names, pairs = (arguments.source_field, arguments.target_field), []
    for file in arguments.files:
        with open(file, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    source, target = (json.loads(line)[name] for name in names)
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"'{file}', line {number}, is no JSON object with {list(names)}.") from error
                if not (isinstance(source, str) and isinstance(target, str)):
                    raise ValueError(f"'{file}', line {number}: {list(names)} are not both texts.")
                pairs.append((source, target))
    return pairs


def split_pairs(pairs: Sequence[Pair], held_out: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training and validation pairs. A text that is held out is not trained on with another translation either."""
    order = list(pairs)
    random.Random(seed).shuffle(order)
    validation = order[:held_out]
    sources = {source for source, _ in validation}
    train = [pair for pair in order[held_out:] if pair[0] not in sources]
    if not train:
        raise ValueError(f"{len(pairs)} pairs leave none to train on beside validation_pairs={held_out}.")
    return train, validation


def make_tokenizer(
    arguments: TranslatorArguments, pairs: Sequence[Pair], checkpoint: str | None, show_progress: bool
) -> PreTrainedTokenizerBase:
    if source := checkpoint or arguments.tokenizer:
        return AutoTokenizer.from_pretrained(source)
    texts = (text for pair in pairs for text in pair)
    return train_unigram(texts, arguments.vocab_size, show_progress=show_progress)


def make_config(arguments: TranslatorArguments, tokenizer: PreTrainedTokenizerBase) -> TrineSeq2SeqConfig:
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    special: dict[str, Any] = {name: getattr(tokenizer, name) for name in names}
    start = special["pad_token_id"] if special["bos_token_id"] is None else special["bos_token_id"]
    fields = {"vocab_size": len(tokenizer), **special, "decoder_start_token_id": start}
    return TrineSeq2SeqConfig.from_preset(arguments.preset, **fields | parse_overrides(arguments.config_overrides))


def encode(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict[str, list[int]]]:
    sources, targets = (
        tokenizer([pair[side] for pair in pairs], truncation=True, max_length=max_length)["input_ids"]
        for side in (0, 1)
    )
    return [{"input_ids": source, "labels": target} for source, target in zip(sources, targets, strict=True)]


def print_samples(
    model: TrineForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], max_length: int
) -> None:
    """Prints what the model makes of the sources, by beam search, beside the targets."""
    generate: Any = model.eval().generate  # pyright: ignore[reportAttributeAccessIssue] as in the library
    for source, target in pairs:
        inputs = tokenizer(source, truncation=True, max_length=max_length, return_tensors="pt").to(model.device)
        tokens = generate(inputs["input_ids"], num_beams=4, max_new_tokens=max_length)
        print(f"\n{source}\n  model:  {tokenizer.decode(tokens[0], skip_special_tokens=True)}\n  target: {target}")


if __name__ == "__main__":
    sys.exit(main())
