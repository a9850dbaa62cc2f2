"""Train a model to classify sounds, from the first weight on or from a pretrained one."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import ASTFeatureExtractor, AutoConfig, AutoModelForAudioClassification, set_seed

from trine.configuration.configuration_trine import TrineConfig
from trine.scripts.arguments.finetuning import FinetuneArguments
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.partial_training import PartialTrainingArguments
from trine.scripts.arguments.pretraining import parse_overrides
from trine.scripts.arguments.trainer import trainer_default
from trine.scripts.finetune_classifier import logits_of
from trine.scripts.jobs.finetuning import check_metric, load_labelled
from trine.scripts.jobs.job import INTERRUPTED, bad_input_ends, begin, train
from trine.scripts.jobs.picture_files import read_pictures
from trine.scripts.train_images import SMALL, ImageTrainer, ImageTrainingArguments, PictureClass, Task, report
from trine.tokenization.records import BadRecords
from trine.training.data.sounds import SoundCollator, Sounds
from trine.training.finetuning import hold_out


ENDINGS = (".wav",)


@dataclass
class SoundArguments(FinetuneArguments):
    """Options of `trine train-sounds`: data and model."""

    model: str | None = field(  # pyright: ignore[reportIncompatibleVariableOverride] a model is made where none is named
        default=None,
        metadata={"help": "Folder or Hub id of a pretrained model of sounds. By default a new one is made."},
    )
    files: list[str] = field(
        kw_only=True,
        metadata={
            "help": "Folders with a folder of WAV files for each class; records (.jsonl, .csv, .parquet, .json) whose "
            "sound is a path from the folder of the file."
        },
    )
    sound_field: str = field(default="sound", metadata={"help": "Name of the path of a WAV in a record."})
    label_field: str = field(default="label", metadata={"help": "Name of the class in a record."})
    num_mel_bins: int = field(default=64, metadata={"help": "Mel bands of a new model."})
    num_frames: int = field(
        default=96, metadata={"help": "Frames of 10 ms that a new model reads: longer sounds are cut, others padded."}
    )
    patch_size: int = field(default=16, metadata={"help": "Bands and frames of a patch of a new model."})
    hidden_share: float = field(
        default=0.2, metadata={"help": "Largest share of frames, and of bands, that training hides (SpecAugment)."}
    )
    shift: float = field(default=0.1, metadata={"help": "Largest share of frames that training moves sounds by."})
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of TrineConfig of a new model as key=value: attention_types=linear num_hidden_layers=4. "
            "In a recipe a mapping, to which the command line adds.",
            "action": "extend",
        },
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("hidden_share", "shift"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and below 1.")
        if self.model is not None and self.config_overrides:
            raise ValueError(f"config_overrides={self.config_overrides} are of a new model, but model='{self.model}'.")


@dataclass
class SoundTrainingArguments(ImageTrainingArguments):
    """The trainer's arguments with the usual values for sounds; the best checkpoint is kept."""

    output_dir: str = trainer_default("output_dir", "outputs/sounds")


class SoundClass(PictureClass):
    """A sound has one of the labels."""

    loss_unit = "nats per sound"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine train-sounds` with these arguments, by default the process's."""
    types = [SoundArguments, PartialTrainingArguments, SoundTrainingArguments]
    arguments, partial, training = parse_arguments(types, argv, command="train-sounds", description=__doc__)
    with bad_input_ends(StrictDataclassError):
        task = prepare(arguments, training)
        partial.apply(task.model, processes=training.world_size)
    problem = task.problem
    trainer = ImageTrainer(
        task.model,
        training,
        training_collator=SoundCollator(arguments.hidden_share, arguments.shift, training.seed),
        train_dataset=task.train_data,
        eval_dataset=task.validation_data,
        data_collator=SoundCollator(),
        processing_class=task.processor,
        padding_free=False,
        partial=partial,
        compute_metrics=lambda result: problem.measure(result.label_ids, problem.predict(logits_of(result))),
    )
    if not train(trainer, task.checkpoint, arguments.early_stopping_patience):
        return INTERRUPTED
    report(task, trainer)
    return 0


def prepare(arguments: SoundArguments, training: SoundTrainingArguments) -> Task:
    """Reads and splits the sounds, and loads or makes the model.

    Raises:
        OSError: Files or a model that cannot be read, or an output folder that cannot be written.
        ValueError: Sounds or records that cannot be read, fewer than two classes, or fields that do not fit.
        StrictDataclassError: A field of the config has the wrong type.
    """
    checkpoint, bad = begin(training), BadRecords(arguments.skip_bad_records)
    fields = arguments.sound_field, arguments.label_field
    examples = read_pictures(arguments.files, *fields, bad, ENDINGS)
    others = read_pictures(arguments.validation_files, *fields, bad, ENDINGS)
    bad.check()
    problem = SoundClass([label for _, label in examples], arguments.label_field)
    check_metric(training, problem.scores)
    if unknown := set().union(*(problem.unknown(label) for _, label in others)):
        raise ValueError(f"validation_files have the classes {sorted(unknown)[:10]}, which the training files lack.")
    strata, names = [label for _, label in examples], [str(source) for source, _ in examples]
    split = arguments.validation_fraction, training.seed
    parts = (examples, others) if others else hold_out(examples, strata, names, *split)
    set_seed(training.seed)
    config = make_config(arguments)
    model = load_model(arguments, config, problem, checkpoint)
    sizes = config.num_mel_bins, getattr(config, "num_frames", getattr(config, "max_length", arguments.num_frames))
    extractor = ASTFeatureExtractor(num_mel_bins=sizes[0], max_length=sizes[1])
    data: list[Any] = [
        Sounds([Path(str(source)) for source, _ in part], [problem.target(label) for _, label in part], *sizes)
        for part in parts
    ]
    print(f"{len(data[0]):,} sounds to train on, {len(data[1]):,} to validate with, {len(problem.names)} classes.")
    counts = {"training_records": len(data[0]), "validation_records": len(data[1]), "bad_records": bad.count}
    return Task(problem, model, extractor, data[0], data[1], counts, checkpoint)


def make_config(arguments: SoundArguments) -> Any:
    """The config of the model that is named, or of a new one."""
    if arguments.model is not None:
        return AutoConfig.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
    sizes = {name: getattr(arguments, name) for name in ("num_mel_bins", "num_frames", "patch_size")}
    given = parse_overrides(arguments.config_overrides)
    return TrineConfig(**{"input_type": "audio", "is_causal": False, **SMALL, **sizes, **given})


def load_model(arguments: SoundArguments, config: Any, problem: SoundClass, checkpoint: str | None) -> Any:
    """The model with a head for these classes."""
    auto_class, kind = AutoModelForAudioClassification, "single_label_classification"
    if arguments.model is not None:
        return load_labelled(auto_class, arguments, config, problem.names, checkpoint, kind)  # pyright: ignore[reportArgumentType] named
    config.id2label = dict(enumerate(problem.names))
    config.label2id = {name: index for index, name in enumerate(problem.names)}
    config.problem_type = kind
    return auto_class.from_config(config)


if __name__ == "__main__":
    sys.exit(main())
