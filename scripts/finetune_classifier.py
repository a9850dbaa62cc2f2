"""Fine-tune a model to classify texts or pairs of texts: one class, a set of labels, or a value."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.trainer_utils import PredictionOutput

from trine.configuration.patterns import shorten
from trine.scripts.arguments.finetuning import FinetuneArguments, FinetuneTrainingArguments
from trine.scripts.arguments.parsing import parse_arguments, unknown_name
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
from trine.scripts.reports.plots import draw_confusion
from trine.tokenization.records import BadRecords, read_examples
from trine.training.finetuning import FinetuneTrainer, hold_out
from trine.training.measures.classification import confusion_matrix
from trine.training.objectives.labels import PROBLEMS, LabelSet, OneClass, Value, find_problem


MOST_CLASSES_DRAWN = 30


class Labelled(NamedTuple):
    """A text or a pair of texts, with its label."""

    texts: tuple[str, ...]  # one, or two
    label: Any


@dataclass
class ClassifierArguments(FinetuneArguments):
    """Options of `trine finetune-classifier`: data and model."""

    text_field: str = field(default="text", metadata={"help": "Name of the text in a record."})
    second_text_field: str | None = field(
        default=None, metadata={"help": "Name of a second text, where pairs are classified."}
    )
    label_field: str = field(
        default="label",
        metadata={"help": "Name of the label: a text or an integer, a list of them, or a number with a point."},
    )
    problem_type: str | None = field(
        default=None, metadata={"help": f"One of {[*PROBLEMS]}. By default the labels tell, and it is printed."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.problem_type is not None and self.problem_type not in PROBLEMS:
            raise ValueError(unknown_name("problem_type", self.problem_type, PROBLEMS))


@dataclass
class ClassifierTrainingArguments(FinetuneTrainingArguments):
    """The trainer's arguments with the usual values for fine-tuning; the best checkpoint is kept."""

    output_dir: str = trainer_default("output_dir", "outputs/classifier")


@dataclass
class Task:
    """Everything that training needs."""

    problem: Any
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train_data: list[dict[str, Any]]
    validation_data: list[dict[str, Any]]
    counts: dict[str, int]
    checkpoint: str | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine finetune-classifier` with these arguments, by default the process's."""
    types = [ClassifierArguments, PartialTrainingArguments, ClassifierTrainingArguments]
    arguments, partial, training = parse_arguments(types, argv, command="finetune-classifier", description=__doc__)
    with bad_input_ends():
        task = prepare(arguments, training)
        partial.apply(task.model, processes=training.world_size)
    problem = task.problem
    trainer = make_trainer(
        task.model,
        training,
        train_dataset=task.train_data,
        eval_dataset=task.validation_data,
        data_collator=DataCollatorWithPadding(task.tokenizer),
        processing_class=task.tokenizer,
        partial=partial,
        compute_metrics=lambda result: problem.measure(result.label_ids, problem.predict(logits_of(result))),
    )
    if not train(trainer, task.checkpoint, arguments.early_stopping_patience):
        return INTERRUPTED
    report(task, trainer)
    return 0


def prepare(arguments: ClassifierArguments, training: ClassifierTrainingArguments) -> Task:
    """Reads and splits the records, loads the model and encodes the texts.

    Raises:
        OSError: Files or a model that cannot be read, or an output folder that cannot be written.
        ValueError: Bad records, labels that cannot be learned, or arguments that do not fit together.
    """
    checkpoint, bad = begin(training), BadRecords(arguments.skip_bad_records)
    examples = read_labelled(arguments, arguments.files, bad)
    others = read_labelled(arguments, arguments.validation_files, bad) if arguments.validation_files else []
    bad.check()
    name = arguments.problem_type or find_problem([label for _, label in examples + others], arguments.label_field)
    problem = PROBLEMS[name]([label for _, label in examples], arguments.label_field)
    found = "as told" if arguments.problem_type else "found from the labels"
    print(f"problem_type={name} ({found}), outputs: {shorten(sorted(problem.names), 10)}")
    check_metric(training, problem.scores)
    if unknown := set().union(*(problem.unknown(label) for _, label in others)):
        raise ValueError(
            f"validation_files have the labels {shorten(sorted(unknown), 10)}, which the training files lack."
        )
    split = arguments.validation_fraction, training.seed
    strata = [problem.stratum(label) for _, label in examples]
    parts = (examples, others) if others else hold_out(examples, strata, [texts for texts, _ in examples], *split)
    config, tokenizer = load_parts(arguments)
    (train_data, cut), (validation_data, others_cut) = (
        encode(part, problem, tokenizer, arguments.max_length) for part in parts
    )
    validation_data.sort(key=lambda example: len(example["input_ids"]))  # evaluation pads
    set_seed(training.seed)
    return Task(
        problem,
        load_labelled(AutoModelForSequenceClassification, arguments, config, problem.names, checkpoint, name),
        tokenizer,
        train_data,
        validation_data,
        count_records(
            len(examples) + len(others), (train_data, validation_data), bad, cut + others_cut, arguments.max_length
        ),
        checkpoint,
    )


def read_labelled(arguments: ClassifierArguments, files: Sequence[str], bad: BadRecords) -> list[Labelled]:
    """Reads the texts and the label of each record; faults of other records are added to `bad`."""
    names = [name for name in (arguments.text_field, arguments.second_text_field) if name is not None]
    known = arguments.problem_type and PROBLEMS[arguments.problem_type]
    types = known.types if known else (str, int, float, list)

    def read(record: Mapping[str, Any]) -> Labelled:
        texts, label = tuple(record[name] for name in names), record[arguments.label_field]
        for name, text in zip(names, texts, strict=True):
            if not text.strip():
                raise ValueError(f"the field '{name}' is empty")
        reader = known or {list: LabelSet, float: Value}.get(type(label), OneClass)
        return Labelled(texts, reader.read(label))

    return read_examples(files, {**dict.fromkeys(names, str), arguments.label_field: types}, read, bad)


def encode(
    examples: Sequence[Labelled], problem: Any, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[dict[str, Any]], int]:
    """The tokens of each text or pair, at most `max_length`, with its label; and how many were longer."""
    first, last = ([texts[side] for texts, _ in examples] for side in (0, -1))
    second = last if len(examples[0].texts) > 1 else None
    inputs, cut = encode_cut(tokenizer, first, second, max_length=max_length)
    labels = [problem.target(label) for _, label in examples]
    rows = [{**{key: ids[i] for key, ids in inputs.items()}, "labels": label} for i, label in enumerate(labels)]
    return rows, len(cut)


def logits_of(result: EvalPrediction | PredictionOutput) -> np.ndarray:
    """The first output: an encoder-decoder, or one with experts, has others."""
    return result.predictions[0] if isinstance(result.predictions, tuple) else result.predictions


def report(task: Task, trainer: FinetuneTrainer) -> None:
    """Scores the model and the constant answer, saves and draws."""
    problem, name = task.problem, task.model.config.problem_type
    result = trainer.predict(task.validation_data, metric_key_prefix="eval")  # pyright: ignore[reportArgumentType] a list is a dataset
    expected, predicted = np.asarray(result.label_ids), problem.predict(logits_of(result))
    baseline, answer = problem.constant([example["labels"] for example in task.train_data])
    constant = np.broadcast_to(answer, expected.shape)
    model_scores = {"loss": (result.metrics or {})["eval_loss"], **problem.measure(expected, predicted)}
    scores = {"model": model_scores, baseline: problem.measure(expected, constant)}
    finish(
        trainer, {"problem_type": name, "labels": problem.names, "scores": scores, **task.counts}, problem.loss_unit
    )
    drawn = name == "single_label_classification" and len(problem.names) <= MOST_CLASSES_DRAWN
    if drawn and trainer.is_world_process_zero():
        matrix = confusion_matrix(expected, predicted, len(problem.names))
        draw_confusion(matrix, problem.names, Path(str(trainer.args.output_dir)) / "confusion.png")


if __name__ == "__main__":
    sys.exit(main())
