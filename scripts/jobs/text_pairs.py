"""Training on pairs of texts: translations or summaries."""

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from peft import get_peft_model
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase, set_seed

from trine.generation.mask_predict import MaskPredict, keep_settings
from trine.generation.translation.metrics import describe_scores, score_texts
from trine.generation.translation.translator import Translator, find_tag
from trine.scripts.arguments.lora import ADAPTER, OptionalLoraArguments, count_parameters
from trine.scripts.arguments.text_pairs import PairArguments, PairTrainingArguments
from trine.scripts.jobs.cut_texts import encode_cut, say_cut
from trine.scripts.jobs.job import INTERRUPTED, bad_input_ends, begin, save, train, write_report
from trine.scripts.jobs.pair_models import Tokenizers, check_encoder, find_config, make_model, make_tokenizers
from trine.scripts.jobs.pair_trainer import PairTrainer, save_merged
from trine.tokenization.records import BadRecords, read_examples
from trine.tokenization.text_ends import encode_targets
from trine.training.data.encoder_states import EncodedSourcesCollator, encode_sources
from trine.training.objectives.masked_targets import MaskedTargetCollator
from trine.training.run.callbacks import RandomFeatureCallback
from trine.training.run.freezing import PartialTraining
from trine.training.run.muon import check_whole
from trine.training.run.parallelism import Parallelism
from trine.training.run.precision import half_precision
from trine.training.run.trainers import keep_use_cache


LEAST_SPREAD = 0.1  # tokens; where lengths follow from those of the sources, rounding is left


class Pair(NamedTuple):
    """A source text, its target, and the target's language, or None."""

    source: str
    target: str
    language: str | None = None


# What is scored beside the model: texts made of the source alone.
Baselines = Mapping[str, Callable[[str], str]]


@dataclass
class Task:
    """Everything that training needs."""

    train_pairs: list[Pair]
    validation_pairs: list[Pair]
    bad_records: int
    tokenizers: Tokenizers
    model: Any  # one of Trine's encoder-decoders, or PEFT's model around it
    collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]]
    checkpoint: str | None
    truncated_pairs: int = 0


def train_on_pairs(
    arguments: PairArguments,
    partial: PartialTraining,
    lora: OptionalLoraArguments,
    training: PairTrainingArguments,
    *,
    baselines: Baselines | None = None,
) -> int:
    """Trains, saves, prints samples and scores; returns the status of the process."""
    with bad_input_ends():
        task = prepare(arguments, partial, lora, training)
    (examples, cut), (validation, others_cut) = (
        encode(pairs, task.tokenizers, task.model, arguments.max_length)
        for pairs in (task.train_pairs, task.validation_pairs)
    )
    task.truncated_pairs = cut + others_cut
    say_cut(task.truncated_pairs, len(examples) + len(validation), "pairs", arguments.max_length)
    if arguments.objective == "masked":
        keep_settings(task.model, **settings_of_mask_predict(examples, task.tokenizers.target.mask_token_id))
    restore_use_cache = keep_use_cache(task.model.config)
    data: list[Any] = [examples, validation]
    if arguments.cache_encoder:
        with bad_input_ends():
            half = half_precision(training)
            data = [encode_sources(task.model, rows, arguments.cache_dir, compute_dtype=half) for rows in data]
        task.collator = EncodedSourcesCollator(task.collator, task.model.dtype)
    trainer = PairTrainer(
        task.model,
        training,
        train_dataset=data[0],
        eval_dataset=data[1],
        data_collator=task.collator,  # pyright: ignore[reportArgumentType] any mapping serves
        tokenizers=task.tokenizers,
        callbacks=[] if lora.lora else [RandomFeatureCallback()],  # the base stays as it is beside adapters
        schedule=arguments.scheduled_sampling,
        partial=partial,
    )
    is_done = train(trainer, task.checkpoint, arguments.early_stopping_patience)
    restore_use_cache()
    if not is_done:
        return INTERRUPTED
    finish(task, trainer, arguments, lora, baselines or {})
    return 0


def prepare(
    arguments: PairArguments, partial: PartialTraining, lora: OptionalLoraArguments, training: PairTrainingArguments
) -> Task:
    """Reads and splits the pairs, makes or loads tokenizers and model, and freezes parts of it or adds adapters."""
    if arguments.early_stopping_patience and not training.load_best_model_at_end:
        raise ValueError(
            f"early_stopping_patience={arguments.early_stopping_patience} needs --load_best_model_at_end, with "
            "save_steps that eval_steps divide."
        )
    checkpoint = begin(training)
    check_whole(training, Parallelism())
    if arguments.model is not None:
        find_config(arguments.model)  # what is wrong should not wait for the data
    if arguments.encoder is not None:
        check_encoder(arguments.encoder)
    bad = BadRecords(arguments.skip_bad_records)
    pairs, others = (read_pairs(files, arguments, bad) for files in (arguments.files, arguments.validation_files))
    bad.check()
    train_pairs, validation_pairs = split_pairs(pairs, arguments.validation_pairs, training.seed, others)
    tokenizers = make_tokenizers(arguments, train_pairs, checkpoint, not training.disable_tqdm)
    for tokenizer in tokenizers:
        tokenizer.model_max_length = arguments.max_length  # is saved, so that longer texts are known to be too long
    train_pairs, validation_pairs = (tag_pairs(part, tokenizers.source) for part in (train_pairs, validation_pairs))
    if arguments.cache_encoder:
        train_pairs = leave_unread_out(train_pairs, training)
    set_seed(training.seed)
    model = make_model(arguments, tokenizers)
    if lora.lora:  # a pointer, which may be new, is trained whole
        whole = ["pointer"] if getattr(model.config, "pointer_size", None) else None
        model = get_peft_model(model, lora.make_config(model, task_type="SEQ_2_SEQ_LM", modules_to_save=whole))
    partial.apply(model, processes=training.world_size)
    collator = make_collator(arguments, tokenizers, model)
    return Task(train_pairs, validation_pairs, bad.count, tokenizers, model, collator, checkpoint)


def read_pairs(files: Sequence[str], arguments: PairArguments, bad: BadRecords) -> list[Pair]:
    """The pairs of all files."""
    names = [arguments.source_field, arguments.target_field]
    names += [arguments.target_language_field] if arguments.target_language_field else []
    return [Pair(*texts) for texts in read_texts(files, names, bad)] if files else []


def read_texts(files: Sequence[str], names: Sequence[str], bad: BadRecords) -> list[tuple[str, ...]]:
    """The fields of these names of all records. What is wrong with records is added to `bad`, an empty text too.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file of another kind.
    """

    def read(record: Mapping[str, Any]) -> tuple[str, ...]:
        if empty := [name for name in names if not record[name].strip()]:
            raise ValueError(f"the field '{empty[0]}' is empty")
        return tuple(record[name] for name in names)

    return read_examples(files, dict.fromkeys(names, str), read, bad)


def split_pairs(
    pairs: Sequence[Pair], held_out: int, seed: int, others: Sequence[Pair] = ()
) -> tuple[list[Pair], list[Pair]]:
    """Training and validation pairs: drawn from the pairs, or from `others` where there are any.

    A text that is held out is not trained on with another target either.
    """
    order, others = list(pairs), list(others)
    random.Random(seed).shuffle(order)
    random.Random(seed).shuffle(others)
    validation = (others or order)[:held_out]
    sources = {pair[0] for pair in others or validation}
    train_pairs = [pair for pair in (order if others else order[held_out:]) if pair[0] not in sources]
    if left_out := len(order) - len(train_pairs) - (0 if others else len(validation)):
        print(f"{left_out:,} pairs are left out of training: their sources are held out for validation.")
    if not train_pairs:
        beside = "the validation_files" if others else f"validation_pairs={held_out}"
        raise ValueError(f"{len(pairs)} pairs leave none to train on beside {beside}.")
    return train_pairs, validation


def leave_unread_out(pairs: list[Pair], training: PairTrainingArguments) -> list[Pair]:
    """As many of the shuffled pairs as the steps will read, so that no others are encoded."""
    size = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    count = training.max_steps * size if training.max_steps > 0 else len(pairs)
    if count < len(pairs):
        print(f"{training.max_steps:,} steps read {count:,} of {len(pairs):,} pairs; the others are left out.")
    return pairs[:count]


def tag_pairs(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase) -> list[Pair]:
    """The pairs, with the tag of their language, if they have one, before the source.

    A tag is looked up once, for that reads the whole vocabulary.
    """
    languages = {pair.language for pair in pairs} - {None}
    tags = {None: ""} | {language: find_tag(tokenizer, language) for language in languages if language is not None}
    return [pair._replace(source=tags[pair.language] + pair.source) for pair in pairs]


def make_collator(arguments: PairArguments, tokenizers: Tokenizers, model: Any) -> Any:
    """The collator that makes batches of encoded pairs."""
    if arguments.objective == "masked":
        return MaskedTargetCollator(*tokenizers)
    return DataCollatorForSeq2Seq(tokenizers.source, model=model)  # pads labels with what no loss reads


def settings_of_mask_predict(rows: Sequence[dict[str, list[int]]], mask_token_id: Any) -> dict[str, Any]:
    """Settings of `MaskPredict` from the data: the mask, and mean and spread of the lengths of targets."""
    sizes = [(len(row["input_ids"]), len(row["labels"])) for row in rows]
    ratio = sum(target for _, target in sizes) / sum(source for source, _ in sizes)
    variance = sum((target - ratio * source) ** 2 for source, target in sizes) / len(sizes)
    return {"mask_token_id": mask_token_id, "length_ratio": ratio, "length_spread": max(variance**0.5, LEAST_SPREAD)}


def encode(
    pairs: Sequence[Pair], tokenizers: Tokenizers, model: Any, max_length: int
) -> tuple[list[dict[str, list[int]]], int]:
    """Encodes the pairs as inputs and labels; also returns how many have a text that was cut off."""
    inputs, cut = encode_cut(tokenizers.source, [pair.source for pair in pairs], max_length=max_length)
    sources: Any = inputs["input_ids"]
    ends = model.config.decoder_start_token_id, model.config.eos_token_id
    forced = model.generation_config.forced_bos_token_id
    targets = encode_targets(tokenizers.target, [pair.target for pair in pairs], *ends, max_length, forced)
    if long := [place for place, target in enumerate(targets) if len(target) >= max_length]:
        texts = [pairs[place].target for place in long]
        whole = encode_targets(tokenizers.target, texts, *ends, sys.maxsize, forced)
        cut |= {place for place, target in zip(long, whole, strict=True) if len(target) > len(targets[place])}
    rows = [{"input_ids": source, "labels": target} for source, target in zip(sources, targets, strict=True)]
    return rows, len(cut)


def finish(
    task: Task,
    trainer: PairTrainer,
    arguments: PairArguments,
    lora: OptionalLoraArguments,
    baselines: Baselines,
) -> None:
    """Saves the model, the metrics and the picture of the loss; prints samples and, where asked for, scores."""
    model: Any = task.model
    metrics: dict[str, Any] = {"loss": trainer.evaluate()["eval_loss"], **count_parameters(model)}
    metrics |= {"steps": trainer.state.global_step, "training_pairs": len(task.train_pairs)}
    metrics |= {"validation_pairs": len(task.validation_pairs), "bad_records": task.bad_records}
    metrics["truncated_pairs"] = task.truncated_pairs
    folder = save(trainer, Path(str(trainer.args.output_dir)) / ADAPTER if lora.merge else None)
    if folder is None:
        return
    source, target = task.tokenizers
    translator = Translator(model.eval(), source, target_tokenizer=target, language=arguments.language)
    options: dict[str, Any] = {"truncation": True, "max_new_tokens": arguments.max_length}
    best: dict[str, Any] = {"num_beams": 4}
    if arguments.objective == "masked":
        options["custom_generate"], best = MaskPredict(arguments.iterations), {}
    if shown := task.validation_pairs[: arguments.samples]:
        for pair, text in zip(shown, translator([pair.source for pair in shown], **best, **options), strict=True):
            print(f"\n{pair.source}\n  model:  {text}\n  target: {pair.target}")
    if arguments.metrics:
        pairs = task.validation_pairs[: arguments.score_pairs]
        sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
        beams = trainer.args.generation_num_beams or 1  # pyright: ignore[reportAttributeAccessIssue] of pairs
        options |= {"num_beams": beams} if best else {}
        written = {"model": translator(sources, show_progress=not trainer.args.disable_tqdm, **options)}
        written |= {name: [baseline(source) for source in sources] for name, baseline in baselines.items()}
        metrics["scores"] = {
            name: score_texts(texts, targets, arguments.metrics, arguments.language) for name, texts in written.items()
        }
        how = f"mask-predict in {arguments.iterations}" if not best else f"{beams} beams" if beams > 1 else "greedy"
        print(f"\n{len(pairs):,} validation pairs, {how}:\n{describe_scores(metrics['scores'])}")
    if lora.merge:
        save_merged(task.model, task.tokenizers, folder)
    unit = f"nats per token, with label smoothing {trainer.label_smoothing:g}"
    write_report(trainer, folder, metrics, unit=unit)  # after the card is there
    print(f"\nValidation loss {metrics['loss']:.3f} {unit}.")
