"""Train a model to classify images, from the first weight on or from a pretrained one."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel, set_seed

from trine.configuration.configuration_trine import TrineConfig
from trine.scripts.arguments.finetuning import FinetuneArguments, FinetuneTrainingArguments
from trine.scripts.arguments.parsing import parse_arguments, unknown_name
from trine.scripts.arguments.partial_training import PartialTrainingArguments
from trine.scripts.arguments.pretraining import parse_overrides
from trine.scripts.arguments.trainer import trainer_default
from trine.scripts.finetune_classifier import MOST_CLASSES_DRAWN, logits_of
from trine.scripts.jobs.finetuning import check_metric, finish, load_labelled
from trine.scripts.jobs.job import INTERRUPTED, bad_input_ends, begin, train
from trine.scripts.jobs.picture_files import Picture, read_pictures
from trine.scripts.reports.plots import draw_confusion
from trine.tokenization.records import BadRecords
from trine.training.data.pictures import Augmentation, PictureCollator, Pictures
from trine.training.finetuning import FinetuneTrainer, hold_out
from trine.training.measures.classification import confusion_matrix
from trine.training.objectives.labels import OneClass


# How strongly training pictures are changed: what `Augmentation` is given.
AUGMENTATIONS: dict[str, dict[str, float] | None] = {
    "none": None,
    "mirror": {"flip": 0.5, "shift": 0.0},
    "shift": {"flip": 0.0, "shift": 0.1},
    "light": {"flip": 0.5, "shift": 0.1},
    "erase": {"flip": 0.5, "shift": 0.1, "erase": 0.25},
}
# A small model, unless `config_overrides` says otherwise.
SMALL: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "position_type": "learned",
    "gated_mlp": False,
    "hidden_act": "gelu",
    "classifier_pooling": "mean",
}


@dataclass
class ImageArguments(FinetuneArguments):
    """Options of `trine train-images`: data and model."""

    model: str | None = field(  # pyright: ignore[reportIncompatibleVariableOverride] a model is made where none is named
        default=None,
        metadata={"help": "Folder or Hub id of a pretrained model of images. By default a new one is made."},
    )
    files: list[str] = field(
        kw_only=True,
        metadata={
            "help": "Folders with a folder of pictures for each class; records (.jsonl, .csv, .parquet, .json) whose "
            "image is a path from the folder of the file; folders written by `Dataset.save_to_disk`."
        },
    )
    image_field: str = field(default="image", metadata={"help": "Name of the picture in a record."})
    label_field: str = field(default="label", metadata={"help": "Name of the class in a record."})
    image_size: int | None = field(
        default=None,
        metadata={"help": "Height and width that pictures get. Default: the model's, or 224 for a new one."},
    )
    patch_size: int = field(default=16, metadata={"help": "Height and width of a patch of a new model."})
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of TrineConfig of a new model as key=value: attention_types=linear num_hidden_layers=4. "
            "In a recipe a mapping, to which the command line adds.",
            "action": "extend",
        },
    )
    augmentation: str = field(
        default="light",
        metadata={"help": f"How training pictures are changed, one of {[*AUGMENTATIONS]}: light mirrors them, too."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(unknown_name("augmentation", self.augmentation, AUGMENTATIONS))
        if self.model is not None and self.config_overrides:
            raise ValueError(f"config_overrides={self.config_overrides} are of a new model, but model='{self.model}'.")


@dataclass
class ImageTrainingArguments(FinetuneTrainingArguments):
    """The trainer's arguments with the usual values for images; the best checkpoint is kept."""

    output_dir: str = trainer_default("output_dir", "outputs/images")
    learning_rate: float = trainer_default("learning_rate", 1e-3)
    lr_scheduler_type: str = trainer_default("lr_scheduler_type", "cosine")
    weight_decay: float = trainer_default("weight_decay", 0.05)
    remove_unused_columns: bool = trainer_default("remove_unused_columns", False)


class PictureClass(OneClass):
    """A picture has one of the labels."""

    loss_unit = "nats per picture"


@dataclass
class Task:
    """Everything that training needs."""

    problem: OneClass
    model: PreTrainedModel
    processor: Any
    train_data: Pictures
    validation_data: Pictures
    counts: dict[str, int]
    checkpoint: str | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine train-images` with these arguments, by default the process's."""
    types = [ImageArguments, PartialTrainingArguments, ImageTrainingArguments]
    arguments, partial, training = parse_arguments(types, argv, command="train-images", description=__doc__)
    with bad_input_ends(StrictDataclassError):
        task = prepare(arguments, training)
        partial.apply(task.model, processes=training.world_size)
    changes = AUGMENTATIONS[arguments.augmentation]
    statistics = task.processor.image_mean, task.processor.image_std
    problem, plain = task.problem, PictureCollator(*statistics)
    augment = None if changes is None else Augmentation(**changes, seed=training.seed)
    trainer = ImageTrainer(
        task.model,
        training,
        training_collator=PictureCollator(*statistics, augment),
        train_dataset=task.train_data,
        eval_dataset=task.validation_data,
        data_collator=plain,
        processing_class=task.processor,
        padding_free=False,
        partial=partial,
        compute_metrics=lambda result: problem.measure(result.label_ids, problem.predict(logits_of(result))),
    )
    if not train(trainer, task.checkpoint, arguments.early_stopping_patience):
        return INTERRUPTED
    report(task, trainer)
    return 0


class ImageTrainer(FinetuneTrainer):
    """Trains on batches of another collator than it evaluates on."""

    def __init__(self, *args: Any, training_collator: Any, **kwargs: Any):
        self.training_collator = training_collator
        super().__init__(*args, **kwargs)

    def get_train_dataloader(self):
        """The batches to train on."""
        plain, self.data_collator = self.data_collator, self.training_collator
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = plain


def prepare(arguments: ImageArguments, training: ImageTrainingArguments) -> Task:
    """Reads and splits the pictures, and loads or makes the model.

    Raises:
        OSError: Files or a model that cannot be read, or an output folder that cannot be written.
        ValueError: Pictures or records that cannot be read, fewer than two classes, or fields that do not fit.
        StrictDataclassError: A field of the config has the wrong type.
    """
    checkpoint, bad = begin(training), BadRecords(arguments.skip_bad_records)
    fields = arguments.image_field, arguments.label_field
    examples = read_pictures(arguments.files, *fields, bad)
    others = read_pictures(arguments.validation_files, *fields, bad)
    bad.check()
    problem = PictureClass([label for _, label in examples], arguments.label_field)
    check_metric(training, problem.scores)
    if unknown := set().union(*(problem.unknown(label) for _, label in others)):
        raise ValueError(f"validation_files have the classes {sorted(unknown)[:10]}, which the training files lack.")
    strata, names = [label for _, label in examples], [str(source) for source, _ in examples]
    split = arguments.validation_fraction, training.seed
    parts = (examples, others) if others else hold_out(examples, strata, names, *split)
    set_seed(training.seed)
    config = make_config(arguments)
    model = load_model(arguments, config, problem, checkpoint)
    processor = make_processor(arguments, config)
    size = processor.size["height"]
    data = [picture_data(part, problem, size) for part in parts]
    print(f"{len(data[0]):,} pictures to train on, {len(data[1]):,} to validate with, {len(problem.names)} classes.")
    counts = {"training_records": len(data[0]), "validation_records": len(data[1]), "bad_records": bad.count}
    return Task(problem, model, processor, data[0], data[1], counts, checkpoint)


def picture_data(examples: Sequence[Picture], problem: OneClass, size: int) -> Pictures:
    """The pictures with their targets, decoded now where they are kept: what cannot be read should not wait."""
    data = Pictures([source for source, _ in examples], [problem.target(label) for _, label in examples], size)
    for index in range(len(data)) if data.keeps else ():
        data[index]
    return data


def make_config(arguments: ImageArguments) -> Any:
    """The config of the model that is named, or of a new one."""
    if arguments.model is not None:
        return AutoConfig.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
    sizes = {"image_size": arguments.image_size or 224, "patch_size": arguments.patch_size}
    given = parse_overrides(arguments.config_overrides)
    return TrineConfig(**{"input_type": "image", "is_causal": False, **SMALL, **sizes, **given})


def load_model(arguments: ImageArguments, config: Any, problem: OneClass, checkpoint: str | None) -> PreTrainedModel:
    """The model with a head for these classes."""
    auto_class, kind = AutoModelForImageClassification, "single_label_classification"
    if arguments.model is not None:
        return load_labelled(auto_class, arguments, config, problem.names, checkpoint, kind)  # pyright: ignore[reportArgumentType] named
    config.id2label = dict(enumerate(problem.names))
    config.label2id = {name: index for index, name in enumerate(problem.names)}
    config.problem_type = kind
    return auto_class.from_config(config)


def make_processor(arguments: ImageArguments, config: Any) -> Any:
    """The image processor that is saved with the model: that of the pretrained one, or one that resizes."""
    from transformers import AutoImageProcessor, ViTImageProcessorPil

    size = arguments.image_size or config.image_size
    size = size if isinstance(size, int) else size[0]
    if arguments.model is not None and (Path(arguments.model) / "preprocessor_config.json").is_file():
        processor = AutoImageProcessor.from_pretrained(arguments.model)
    else:
        processor = ViTImageProcessorPil()
    processor.size = {"height": size, "width": size}
    return processor


def report(task: Task, trainer: FinetuneTrainer) -> None:
    """Scores the model and the constant answer, saves and draws."""
    problem = task.problem
    result = trainer.predict(task.validation_data, metric_key_prefix="eval")
    expected, predicted = np.asarray(result.label_ids), problem.predict(logits_of(result))
    baseline, answer = problem.constant(task.train_data.targets)
    model_scores = {"loss": (result.metrics or {})["eval_loss"], **problem.measure(expected, predicted)}
    constant = problem.measure(expected, np.broadcast_to(answer, expected.shape))
    scores = {"model": model_scores, baseline: constant}
    finish(trainer, {"labels": problem.names, "scores": scores, **task.counts}, problem.loss_unit)
    if len(problem.names) <= MOST_CLASSES_DRAWN and trainer.is_world_process_zero():
        matrix = confusion_matrix(expected, predicted, len(problem.names))
        draw_confusion(matrix, problem.names, Path(str(trainer.args.output_dir)) / "confusion.png")


if __name__ == "__main__":
    sys.exit(main())
