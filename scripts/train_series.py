"""Train a model to forecast series, from the first weight on or from a pretrained one."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForTimeSeriesPrediction, PreTrainedModel, default_data_collator, set_seed

from trine.configuration.configuration_trine import TrineConfig
from trine.scripts.arguments.finetuning import FinetuneTrainingArguments
from trine.scripts.arguments.parsing import RECORDS_HELP, parse_arguments
from trine.scripts.arguments.partial_training import PartialTrainingArguments
from trine.scripts.arguments.pretraining import parse_overrides
from trine.scripts.arguments.trainer import trainer_default
from trine.scripts.jobs.finetuning import check_metric, describe
from trine.scripts.jobs.forecasts import (
    draw_forecast,
    levels_of,
    part,
    predict_naively,
    predict_windows,
    score,
    summarise,
)
from trine.scripts.jobs.job import INTERRUPTED, bad_input_ends, begin, figures_of, save, train, write_report
from trine.scripts.jobs.series_files import read_series
from trine.tokenization.records import BadRecords
from trine.training.data.series import Series, Windows, split_by_time
from trine.training.finetuning import FinetuneTrainer


# A small model, unless `config_overrides` says otherwise.
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "position_type": "learned",
    "gated_mlp": False,
    "hidden_act": "gelu",
    "intermediate_size": 128,
    "loss": "quantile",
}
FIELDS = "series.json"  # beside a model: which fields of records it was trained on


@dataclass
class SeriesArguments:
    """Options of `trine train-series`: data and model."""

    _argument_group_name = "data and model"

    files: list[str] = field(metadata={"help": f"{RECORDS_HELP} A record is a step."})
    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a model of series. By default a new one is made."}
    )
    time_field: str | None = field(
        default=None,
        metadata={
            "help": "Name of the date (ISO 8601) or number of a step: steps are sorted, those left out are missing "
            "values. By default records are in order."
        },
    )
    value_fields: list[str] = field(
        default_factory=list, metadata={"help": "Names of the values of a step. Default: all fields of numbers."}
    )
    series_field: str | None = field(
        default=None, metadata={"help": "Name of what tells which series a record is of. By default there is one."}
    )
    context_length: int = field(default=96, metadata={"help": "Steps that a new model reads."})
    prediction_length: int = field(default=24, metadata={"help": "Steps that a new model predicts."})
    patch_length: int = field(default=16, metadata={"help": "Steps of a patch of a new model."})
    patch_stride: int = field(default=8, metadata={"help": "Steps from one patch of a new model to the next."})
    season: int = field(
        default=1, metadata={"help": "Steps of a season: 24 of hours for days. Naive forecasts and MASE go by it."}
    )
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of TrineConfig of a new model as key=value: attention_types=linear loss=mse. In recipes a "
            "mapping, to which the command line adds.",
            "action": "extend",
        },
    )
    validation_fraction: float = field(default=0.1, metadata={"help": "Share of the steps, before those of the test."})
    test_fraction: float = field(default=0.2, metadata={"help": "Share of the steps, the last ones, that is scored."})
    test_stride: int | None = field(
        default=None, metadata={"help": "Steps from one scored forecast to the next. Default: prediction_length."}
    )
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records that cannot be used, with a warning, instead of stopping."}
    )
    early_stopping_patience: int = field(
        default=5, metadata={"help": "Evaluations in a row without a lower loss after which training ends; 0: never."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code that a checkpoint from the Hub brings. Trine's needs none."}
    )

    def __post_init__(self):
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 0.5:
                raise ValueError(f"{name}={getattr(self, name)} must be between 0 and 0.5.")
        for name, least in (("season", 1), ("early_stopping_patience", 0), ("test_stride", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.model is not None and self.config_overrides:
            raise ValueError(f"config_overrides={self.config_overrides} are of a new model, but model='{self.model}'.")


@dataclass
class SeriesTrainingArguments(FinetuneTrainingArguments):
    """The trainer's arguments with the usual values for series; the best checkpoint is kept."""

    output_dir: str = trainer_default("output_dir", "outputs/series")
    learning_rate: float = trainer_default("learning_rate", 1e-3)
    lr_scheduler_type: str = trainer_default("lr_scheduler_type", "cosine")
    num_train_epochs: float = trainer_default("num_train_epochs", 10.0)
    remove_unused_columns: bool = trainer_default("remove_unused_columns", False)
    prediction_loss_only: bool = trainer_default("prediction_loss_only", True)

    def __post_init__(self):
        super().__post_init__()
        self.label_names = self.label_names or ["future_values"]


@dataclass
class Task:
    """Everything that training needs."""

    model: PreTrainedModel
    parts: tuple[Windows, Windows, Windows]
    fields: list[str]
    bad_records: int
    checkpoint: str | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine train-series` with these arguments, by default the process's."""
    types = [SeriesArguments, PartialTrainingArguments, SeriesTrainingArguments]
    arguments, partial, training = parse_arguments(types, argv, command="train-series", description=__doc__)
    with bad_input_ends(StrictDataclassError):
        task = prepare(arguments, training)
        partial.apply(task.model, processes=training.world_size)
    trainer = FinetuneTrainer(
        task.model,
        training,
        train_dataset=task.parts[0],
        eval_dataset=task.parts[1],
        data_collator=default_data_collator,
        padding_free=False,
        partial=partial,
    )
    if not train(trainer, task.checkpoint, arguments.early_stopping_patience):
        return INTERRUPTED
    report(task, trainer, arguments)
    return 0


def prepare(arguments: SeriesArguments, training: SeriesTrainingArguments) -> Task:
    """Reads the series, splits them by time, and loads or makes the model.

    Raises:
        OSError: Files or a model that cannot be read, or an output folder that cannot be written.
        ValueError: Records or times that cannot be used, series that are too short, or fields that do not fit.
        StrictDataclassError: A field of the config has the wrong type.
    """
    checkpoint, bad = begin(training), BadRecords(arguments.skip_bad_records)
    check_metric(training, ())
    named = arguments.time_field, arguments.value_fields, arguments.series_field
    series, fields = read_series(arguments.files, *named, bad)
    bad.check()
    set_seed(training.seed)
    model = load_model(arguments, len(fields))
    parts = make_parts(series, model.config, arguments)
    count = f"{len(series):,} series of " if arguments.series_field else ""
    print(f"{count}{', '.join(fields)}: {sum(len(each.values) for each in series):,} steps.")
    sizes = [len(each) for each in parts]
    print(f"{sizes[0]:,} windows to train on, {sizes[1]:,} to validate with, {sizes[2]:,} to score.")
    return Task(model, parts, fields, bad.count, checkpoint)


def load_model(arguments: SeriesArguments, channels: int) -> PreTrainedModel:
    """The model that is named, or a new one."""
    auto_class = AutoModelForTimeSeriesPrediction
    if arguments.model is not None:
        options = {"dtype": "float32", "trust_remote_code": arguments.trust_remote_code}
        model = auto_class.from_pretrained(arguments.model, **options)
        if model.config.num_input_channels != channels:
            raise ValueError(
                f"model='{arguments.model}' reads num_input_channels={model.config.num_input_channels}, but there are "
                f"{channels} value_fields."
            )
        return model
    lengths = ("context_length", "prediction_length", "patch_length", "patch_stride")
    sizes = {**{name: getattr(arguments, name) for name in lengths}, "num_input_channels": channels}
    shape = {"input_type": "series", "is_causal": False, **SMALL, **sizes}
    shape["max_position_embeddings"] = max(1, arguments.context_length // max(1, arguments.patch_stride) + 1)
    return auto_class.from_config(TrineConfig(**{**shape, **parse_overrides(arguments.config_overrides)}))


def make_parts(series: Sequence[Series], config: Any, arguments: Any) -> tuple[Windows, Windows, Windows]:
    """Windows to train on, to validate with and to score, by the times of their futures.

    Raises:
        ValueError: A part has no window.
    """
    horizon = config.prediction_length
    borders = [split_by_time(each, arguments.validation_fraction, arguments.test_fraction) for each in series]
    scales = [
        each.seasonal_difference(arguments.season, first) for each, (first, _) in zip(series, borders, strict=True)
    ]
    sizes = {"context_length": config.context_length, "prediction_length": horizon, "scales": scales}
    spans = [(1, first) for first, _ in borders]
    training = Windows(series, spans, stride=1, shortest=config.context_length, **sizes)
    validation = Windows(series, borders, stride=max(1, horizon // 4), **sizes)
    ends = [(last, len(each.values)) for each, (_, last) in zip(series, borders, strict=True)]
    scored = Windows(series, ends, stride=arguments.test_stride or horizon, **sizes)
    for name, each in (("train on", training), ("validate with", validation), ("score", scored)):
        if not len(each):
            raise ValueError(
                f"There is no window to {name}: the longest series has {max(len(s.values) for s in series)} steps, "
                f"prediction_length={horizon}, validation_fraction={arguments.validation_fraction}, "
                f"test_fraction={arguments.test_fraction}."
            )
    return training, validation, scored


def report(task: Task, trainer: FinetuneTrainer, arguments: SeriesArguments) -> None:
    """Scores the model beside the seasonal naive forecast, saves and draws."""
    model, scored = trainer.model, task.parts[2]
    levels = levels_of(model.config)  # pyright: ignore[reportOptionalMemberAccess]
    predicted = predict_windows(model, scored, trainer.args.per_device_eval_batch_size)
    scores = {
        "model": summarise(score(predicted, scored, levels)),
        "seasonal naive": summarise(score(predict_naively(scored, arguments.season), scored)),
    }
    names = {"time_field": arguments.time_field, "value_fields": task.fields, "series_field": arguments.series_field}
    metrics = {
        "scores": scores,
        "validation_records": len(scored),
        "training_records": len(task.parts[0]),
        "bad_records": task.bad_records,
        "parameters": model.num_parameters(),  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
        "best_checkpoint": Path(trainer.state.best_model_checkpoint or "").name or None,
        **figures_of(trainer),
    }
    if folder := save(trainer):
        (folder / FIELDS).write_text(json.dumps({**names, "season": arguments.season}) + "\n", encoding="utf-8")
        write_report(trainer, folder, metrics, unit="seasonal differences")
        number, start = scored.places[-1]
        past = scored.series[number].values[max(0, start - 2 * scored.prediction_length) : start]
        future = np.asarray(part(scored, len(scored) - 1))
        draw_forecast(past, predicted[-1], task.fields, folder / "forecast.png", future)
        print(describe(metrics).replace("Validation", "Test").replace("records", "windows"))


if __name__ == "__main__":
    sys.exit(main())
