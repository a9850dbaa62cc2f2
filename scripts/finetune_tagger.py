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
from trine.training.measures.intervals import bootstrap_interval
from trine.training.objectives.word_labels import WordPieces


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
    delimiter: str | None = field(
        default=None,
        metadata={
            "help": "What stands between the words in a text, such as '' for Chinese characters: they are tokenised "
            "as that text, which is what a pipeline gets. By default each word is tokenised by itself."
        },
    )
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
    judged: "Judged"
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
        compute_metrics=lambda result: task.judged.measure(result.label_ids, result.predictions),
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
    label_all = (arguments.label_all_pieces, False)  # what is judged is the piece that carries a word's tag
    (train_data, _, cut), (validation_data, words, others_cut) = (
        encode(part, names, tokenizer, arguments.max_length, every, arguments.delimiter)
        for part, every in zip(parts, label_all, strict=True)
    )
    order = sorted(range(len(words)), key=lambda row: len(validation_data[row]["input_ids"]))  # evaluation pads
    validation_data = [validation_data[row] for row in order]
    if arguments.delimiter is None:
        say_blanks(words)
    set_seed(training.seed)
    return Task(
        names,
        load_labelled(AutoModelForTokenClassification, arguments, config, names, checkpoint),
        tokenizer,
        train_data,
        validation_data,
        Judged([words[row] for row in order], [parts[1][row].tags for row in order], names),
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
    delimiter: str | None = None,
) -> tuple[list[dict[str, Any]], list[WordPieces], int]:
    """The pieces of each record, at most `max_length`, with their labels; whose they are; how many are cut."""
    words = [words for words, _ in examples]
    texts: list[Any] = words if delimiter is None else [delimiter.join(several) for several in words]
    inputs, cut = encode_cut(tokenizer, texts, max_length=max_length, is_split_into_words=delimiter is None)
    found = [WordPieces.find(inputs, row, several, tokenizer, delimiter) for row, several in enumerate(words)]
    index = {name: number for number, name in enumerate(names)}
    rows = [
        {**{key: ids[row] for key, ids in inputs.items()}, "labels": pieces.labels(tags, index, label_all)}
        for row, (pieces, (_, tags)) in enumerate(zip(found, examples, strict=True))
    ]
    return rows, found, len(cut)


def say_blanks(words: Sequence[WordPieces]) -> None:
    """Prints a hint if more than half of the words begin with a piece that is a blank."""
    blanks, count = sum(len(pieces.blanks) for pieces in words), sum(len(pieces.carriers) for pieces in words)
    if blanks > count / 2:
        print(
            f"{blanks:,} of {count:,} words begin with a blank piece of their own, so that texts become twice as long "
            "and unlike those that the model knows: if the words are characters, --delimiter '' reads them as text."
        )


def are_entities(names: Sequence[str]) -> bool:
    """Whether the tags follow the scheme BIO."""
    return all(re.fullmatch("O|[BI]-.+", name) for name in names)


def score_names(names: Sequence[str]) -> list[str]:
    """The names of the scores: of entities, or of single tags."""
    return ["accuracy", *(["precision", "recall", "f1"] if are_entities(names) else ["macro_f1"])]


class Judged:
    """The words of some records that are scored: all but those that were cut off.

    Args:
        pieces: Which pieces of each record are of which words.
        tags: The right tags of each record's words.
        names: All tags, in the order of their indices.
    """

    def __init__(self, pieces: Sequence[WordPieces], tags: Sequence[Sequence[str]], names: Sequence[str]):
        self.pieces, self.names = pieces, names
        self.known = {name: number for number, name in enumerate(names)}
        self.expected = [
            [tag for tag, carrier in zip(right, each.carriers, strict=True) if carrier is not None]
            for right, each in zip(tags, pieces, strict=True)
        ]

    def predicted(self, labels: np.ndarray, predictions: np.ndarray) -> list[list[str]]:
        """The tags of each record's words by those of its pieces.

        Args:
            labels: Class indices (records, length); -100 where a piece carries no word's tag.
            predictions: Class indices, likewise.
        """
        return [
            [
                tag
                for tag in each.tags([self.names[int(label)] for label in row[right != IGNORE_INDEX]], self.known)
                if tag
            ]
            for each, right, row in zip(self.pieces, labels, predictions, strict=True)
        ]

    def measure(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Accuracy of words, and precision, recall and F1 of whole entities; without entities the mean F1 of tags."""
        return measure(self.expected, self.predicted(labels, predictions), self.names)


def measure(
    expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], names: Sequence[str]
) -> dict[str, float]:
    """Accuracy of words, and precision, recall and F1 of whole entities; without entities the mean F1 of the tags.

    Args:
        expected: The right tags of each record's words.
        predicted: Those found, likewise.
        names: All tags.
    """
    known = {name: number for number, name in enumerate(names)}
    right, found = ([known[tag] for row in rows for tag in row] for rows in (expected, predicted))
    scores = class_metrics(right, found, len(names))
    if not are_entities(names):
        return scores
    hits, there, told = count_entities(expected, predicted).sum(0)
    precision, recall, f1 = hits / max(told, 1), hits / max(there, 1), 2 * hits / max(there + told, 1)
    return {"accuracy": scores["accuracy"], "precision": float(precision), "recall": float(recall), "f1": float(f1)}


def count_entities(expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> np.ndarray:
    """How many entities of each record are right, expected and predicted: (records, 3)."""
    from seqeval.metrics.sequence_labeling import get_entities

    pairs = [[{*get_entities([*row])} for row in rows] for rows in zip(expected, predicted, strict=True)]
    return np.array([[len(right & found), len(right), len(found)] for right, found in pairs])


def most_likely(logits: Any, labels: Any) -> Any:
    """Class indices (batch, length) of a batch's outputs, which are kept in place of the logits."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def report(task: Task, trainer: FinetuneTrainer) -> None:
    """Scores the model and the most frequent tag, saves and draws."""
    result = trainer.predict(task.validation_data, metric_key_prefix="eval")  # pyright: ignore[reportArgumentType] a list is a dataset
    judged, labels = task.judged, np.asarray(result.label_ids)
    found = {key: (result.metrics or {})[f"eval_{key}"] for key in ("loss", *score_names(task.names))}
    counts = Counter(label for example in task.train_data for label in example["labels"] if label != IGNORE_INDEX)
    answer = task.names[counts.most_common(1)[0][0]]
    constant = measure(judged.expected, [[answer] * len(row) for row in judged.expected], task.names)
    scores = {"model": found, f"all {answer}": constant}
    most = judged.measure(labels, labels)
    if most["accuracy"] < 1:  # pieces of several words with different tags
        scores["pieces' limit"] = most
    metrics: dict[str, Any] = {"labels": task.names, "scores": scores, **task.counts}
    metrics["validation_words"] = sum(map(len, judged.expected))
    if are_entities(task.names):
        predicted = judged.predicted(labels, np.asarray(result.predictions))
        metrics["f1_interval"] = f1_interval(count_entities(judged.expected, predicted))
    finish(trainer, metrics, "nats per tag")
    if "f1_interval" in metrics:
        low, high = metrics["f1_interval"]
        print(f"F1 {found['f1']:.3f}, 95 % interval {low:.3f} to {high:.3f} (bootstrap over records).")


def f1_interval(counts: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of F1 by the bootstrap over records, from what `count_entities` returns."""
    right, total = counts[:, 0], counts[:, 1:].sum(1)
    return bootstrap_interval(2 * right / np.maximum(total, 1), weights=np.maximum(total, 1e-9))


if __name__ == "__main__":
    sys.exit(main())
