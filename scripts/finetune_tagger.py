"""Fine-tune a model to tag words or characters, such as named entities in the scheme BIO."""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from trine.configuration.patterns import shorten
from trine.modeling.checks.ids import IGNORE_INDEX
from trine.scripts.arguments.finetuning import FinetuneArguments, FinetuneTrainingArguments
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.partial_training import PartialTrainingArguments
from trine.scripts.arguments.trainer import trainer_default
from trine.scripts.jobs.cut_texts import encode_cut
from trine.scripts.jobs.finetuning import (
    check_metric,
    count_records,
    finish,
    load_labelled,
    load_parts,
    make_trainer,
)
from trine.scripts.jobs.job import INTERRUPTED, bad_input_ends, begin, train
from trine.tokenization.records import BadRecords, read_examples
from trine.training.finetuning import FinetuneTrainer, hold_out
from trine.training.measures.classification import class_metrics
from trine.training.objectives.word_labels import label_pieces


class Tagged(NamedTuple):
    """Words and their tags."""

    words: list[str]
    tags: list[str]


@dataclass
class TaggerArguments(FinetuneArguments):
    """Options of `trine finetune-tagger`: data and model."""

    words_field: str = field(
        default="tokens", metadata={"help": "Name of the list of words, or of characters, in a record."}
    )
    tags_field: str = field(default="tags", metadata={"help": "Name of the list of tags, one a word."})
    label_all_pieces: bool = field(
        default=False,
        metadata={"help": "Train on all pieces of a word, not on the first alone. Scored is always the first."},
    )


@dataclass
class TaggerTrainingArguments(FinetuneTrainingArguments):
    """The trainer's arguments with the usual values for fine-tuning; the best checkpoint is kept."""

    output_dir: str = trainer_default("output_dir", "outputs/tagger")


@dataclass
class Task:
    """Everything that training needs."""

    names: list[str]
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train_data: list[dict[str, Any]]
    validation_data: list[dict[str, Any]]
    counts: dict[str, int]
    checkpoint: str | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine finetune-tagger` with these arguments, by default the process's."""
    types = [TaggerArguments, PartialTrainingArguments, TaggerTrainingArguments]
    arguments, partial, training = parse_arguments(types, argv, command="finetune-tagger", description=__doc__)
    with bad_input_ends():
        task = prepare(arguments, training)
        partial.apply(task.model, processes=training.world_size)
    trainer = make_trainer(
        task.model,
        training,
        train_dataset=task.train_data,
        eval_dataset=task.validation_data,
        data_collator=DataCollatorForTokenClassification(task.tokenizer),
        processing_class=task.tokenizer,
        partial=partial,
        compute_metrics=lambda result: measure(result.label_ids, result.predictions, task.names),
        preprocess_logits_for_metrics=most_likely,
    )
    if not train(trainer, task.checkpoint, arguments.early_stopping_patience):
        return INTERRUPTED
    report(task, trainer)
    return 0


def prepare(arguments: TaggerArguments, training: TaggerTrainingArguments) -> Task:
    """Reads and splits the records, loads the model and encodes the words.

    Raises:
        OSError: Files or a model that cannot be read, or an output folder that cannot be written.
        ValueError: Bad records, tags that cannot be learned, or arguments that do not fit together.
    """
    checkpoint, bad = begin(training), BadRecords(arguments.skip_bad_records)
    examples = read_tagged(arguments, arguments.files, bad)
    others = read_tagged(arguments, arguments.validation_files, bad) if arguments.validation_files else []
    bad.check()
    names = sorted({tag for _, tags in examples for tag in tags})
    if len(names) < 2:
        raise ValueError(f"tags_field='{arguments.tags_field}' has the tags {names}; two at least are needed.")
    if unknown := {tag for _, tags in others for tag in tags} - {*names}:
        raise ValueError(
            f"validation_files have the tags {shorten(sorted(unknown), 10)}, which the training files lack."
        )
    scored = "entities (BIO)" if are_entities(names) else "single words: not all tags are O, B-... or I-..."
    print(f"{len(names)} tags: {shorten(sorted(names), 10)}. Scored are {scored}.")
    if are_entities(names) and find_spec("seqeval") is None:
        raise ValueError("Entities are scored by seqeval, which is not installed: pip install 'trine[study]'.")
    check_metric(training, score_names(names))
    texts = [tuple(words) for words, _ in examples]
    split = arguments.validation_fraction, training.seed
    parts = (examples, others) if others else hold_out(examples, None, texts, *split)
    config, tokenizer = load_parts(arguments)
    if not tokenizer.is_fast:
        raise ValueError(
            f"The tokenizer of model='{arguments.model}' cannot tell words from pieces: it is not 'fast'."
        )
    label_all = (arguments.label_all_pieces, False)  # what is judged is the first piece
    (train_data, cut), (validation_data, others_cut) = (
        encode(part, names, tokenizer, arguments.max_length, every)
        for part, every in zip(parts, label_all, strict=True)
    )
    validation_data.sort(key=lambda example: len(example["input_ids"]))  # evaluation pads
    set_seed(training.seed)
    return Task(
        names,
        load_labelled(AutoModelForTokenClassification, arguments, config, names, checkpoint),
        tokenizer,
        train_data,
        validation_data,
        count_records(
            len(examples) + len(others), (train_data, validation_data), bad, cut + others_cut, arguments.max_length
        ),
        checkpoint,
    )


def read_tagged(arguments: TaggerArguments, files: Sequence[str], bad: BadRecords) -> list[Tagged]:
    """Reads the words and tags of each record; faults of other records are added to `bad`."""
    names = arguments.words_field, arguments.tags_field

    def read(record: Mapping[str, Any]) -> Tagged:
        for name in names:
            if not record[name]:
                raise ValueError(f"the field '{name}' is empty")
            if strange := [item for item in record[name] if not isinstance(item, str)]:
                raise ValueError(f"the field '{name}' holds {strange[0]!r}, which is no text")
        words, tags = (record[name] for name in names)
        if len(words) != len(tags):
            raise ValueError(f"the field '{names[0]}' has {len(words)} items, '{names[1]}' has {len(tags)}")
        return Tagged(words, tags)

    return read_examples(files, dict.fromkeys(names, list), read, bad)


def encode(
    examples: Sequence[Tagged],
    names: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    label_all: bool,
) -> tuple[list[dict[str, Any]], int]:
    """The pieces of each record's words, at most `max_length`, with their labels; how many records were longer."""
    words = [words for words, _ in examples]
    inputs, cut = encode_cut(tokenizer, words, max_length=max_length, is_split_into_words=True)
    index = {name: number for number, name in enumerate(names)}
    rows = [
        {**{key: ids[row] for key, ids in inputs.items()}, "labels": labels}
        for row, (_, tags) in enumerate(examples)
        for labels in [label_pieces(inputs.word_ids(row), tags, index, label_all)]
    ]
    return rows, len(cut)


def are_entities(names: Sequence[str]) -> bool:
    """Whether the tags follow the scheme BIO."""
    return all(re.fullmatch("O|[BI]-.+", name) for name in names)


def score_names(names: Sequence[str]) -> list[str]:
    """The names of the scores: of entities, or of single tags."""
    return ["accuracy", *(["precision", "recall", "f1"] if are_entities(names) else ["macro_f1"])]


def measure(labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Accuracy of words, and precision, recall and F1 of whole entities; without entities the mean F1 of the tags.

    Args:
        labels: Class indices (records, length); what is -100 does not count.
        predictions: Class indices, likewise.
    """
    judged = labels != IGNORE_INDEX
    scores = class_metrics(labels[judged], predictions[judged], len(names))
    if not are_entities(names):
        return scores
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    expected, predicted = (
        [[str(names[tag]) for tag in row[chosen]] for row, chosen in zip(rows, judged, strict=True)]
        for rows in (labels, predictions)
    )
    options: Any = {"average": "micro", "zero_division": 0}
    entities = np.array(precision_recall_fscore_support(expected, predicted, **options)[:3], dtype=float)
    return {"accuracy": scores["accuracy"], **dict(zip(("precision", "recall", "f1"), entities.tolist(), strict=True))}


def most_likely(logits: Any, labels: Any) -> Any:
    """Class indices (batch, length) of a batch's outputs, which are kept in place of the logits."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def report(task: Task, trainer: FinetuneTrainer) -> None:
    """Scores the model and the most frequent tag, saves and draws."""
    result = trainer.predict(task.validation_data, metric_key_prefix="eval")  # pyright: ignore[reportArgumentType] a list is a dataset
    labels: Any = result.label_ids
    found = {key: (result.metrics or {})[f"eval_{key}"] for key in ("loss", *score_names(task.names))}
    counts = Counter(label for example in task.train_data for label in example["labels"] if label != IGNORE_INDEX)
    answer = counts.most_common(1)[0][0]
    constant = measure(labels, np.full_like(labels, answer), task.names)
    scores = {"model": found, f"all {task.names[answer]}": constant}
    words = {"validation_words": int((labels != IGNORE_INDEX).sum())}
    finish(trainer, {"labels": task.names, "scores": scores, **task.counts, **words}, "nats per word")


if __name__ == "__main__":
    sys.exit(main())
