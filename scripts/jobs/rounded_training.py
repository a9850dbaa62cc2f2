"""Training of a decoder while its weights are rounded, before `trine quantize` stores them so."""

import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments, set_seed

from trine import TrineForCausalLM
from trine.conversion.companions import copy_companions
from trine.conversion.lifts.checkpoint import load_checkpoint
from trine.conversion.quantization.qat import QATCallback
from trine.scripts.jobs.distillation_data import DistillationCollator, encode_cut
from trine.scripts.jobs.memory import keep_freed_memory
from trine.tokenization.loading import load_tokenizer
from trine.tokenization.text_files import iterate_text_files
from trine.training.data.padding_free import takes_packed_rows
from trine.training.run.callbacks import ExpertLoadCallback, RandomFeatureCallback
from trine.training.run.precision import has_fast_bfloat16
from trine.training.run.trainers import TrineTrainer, keep_use_cache


def train_rounded(source: str, trained: Path, arguments: Any, *others: TrainerCallback) -> dict[str, Any]:
    """Trains a decoder's checkpoint while its weights are rounded, and writes it with its unrounded weights.

    Args:
        source: Folder or Hub id of a decoder of Trine.
        trained: Folder to write, in the type of numbers of the source.
        arguments: Those of `trine quantize`: scheme, qat_steps, files...
        others: More callbacks.

    Returns:
        Steps and losses, of the rounded weights.

    Raises:
        ValueError: It is no decoder, the files have no text, or the scheme is not one to train for.
        OSError: Something cannot be read.
    """
    rounding = QATCallback(arguments.scheme, arguments.group_size)
    folder, model = load_checkpoint(source)
    if not isinstance(model, TrineForCausalLM):
        raise ValueError(
            f"qat_steps={arguments.qat_steps} trains a decoder, TrineForCausalLM, and source='{source}' is a "
            f"{type(model).__name__}: train it by QATCallback of trine.conversion, and quantise what you save."
        )
    return train_plainly(folder, model, trained, arguments, rounding, *others)


def train_plainly(
    folder: Path, model: Any, trained: Path, arguments: Any, *callbacks: TrainerCallback
) -> dict[str, Any]:
    """Trains a decoder with these callbacks on texts of `arguments.files`, and writes it; returns steps and losses."""
    set_seed(arguments.seed)
    tokenizer: Any = load_tokenizer(str(folder))
    features = make_features(tokenizer, draw_texts(arguments), arguments.max_length, model)
    dtype, restore_use_cache = model.dtype, keep_use_cache(model.config)
    with TemporaryDirectory() as scratch:
        training = training_arguments(arguments, scratch)
        trainer = TrineTrainer(
            model.float(),
            training,
            train_dataset=features,  # pyright: ignore[reportArgumentType] a list is a dataset
            data_collator=DistillationCollator(tokenizer, packs=takes_packed_rows(model, training)),
            callbacks=[ExpertLoadCallback(), RandomFeatureCallback(), *callbacks],
        )
        keep_freed_memory()
        trainer.train()
    restore_use_cache()
    model.to(dtype).save_pretrained(trained)
    copy_companions(folder, trained, generates=True)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"steps": trainer.state.global_step, "first loss": losses[0], "last loss": losses[-1]}


def training_arguments(arguments: Any, scratch: str) -> TrainingArguments:
    """The trainer's arguments, of those of `trine quantize`."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return TrainingArguments(
        output_dir=scratch,
        max_steps=arguments.qat_steps,
        per_device_train_batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.05,
        weight_decay=0.01,
        seed=arguments.seed,
        use_cpu=device is None,
        bf16=has_fast_bfloat16("cpu" if device is None else device.type),
        logging_steps=max(1, arguments.qat_steps // 10),
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        include_num_input_tokens_seen="non_padding",
        dataloader_pin_memory=device is not None,
        disable_tqdm=arguments.json,
    )


def draw_texts(arguments: Any) -> list[str]:
    """The texts to train on: all of `files`, or as many as the steps read at most, drawn at random.

    Raises:
        ValueError: There is none.
    """
    texts = [text for text in iterate_text_files(arguments.files, text_field=arguments.text_field) if text.strip()]
    if not texts:
        raise ValueError(f"files={arguments.files} has no text to train on.")
    number = arguments.qat_steps * arguments.batch_size
    return random.Random(arguments.seed).sample(texts, number) if number < len(texts) else texts


def make_features(tokenizer: Any, texts: Sequence[str], max_length: int, model: Any) -> list[dict[str, Any]]:
    """Token ids and labels of texts in pieces of `max_length` tokens, or of the model's positions, at most.

    Raises:
        ValueError: No text has two tokens.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    features = encode_cut(tokenizer, texts, min(max_length, model.config.max_position_embeddings))
    if not features:
        raise ValueError(f"The {len(texts)} texts to train on have no token to predict.")
    return features
