"""Arguments of pretraining: data, model, and the trainer's own with other defaults."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from trine.scripts.arguments.recipe_yaml import load_yaml
from trine.scripts.arguments.trainer import MuonTraining, trainer_default
from trine.training.objectives.pretraining import ObjectiveOptions


@dataclass
class PretrainArguments(ObjectiveOptions):
    """Options of `trine pretrain`: data and model."""

    _argument_group_name = "data and model"

    files: list[str] = field(
        kw_only=True,
        metadata={
            "help": "Text files (.txt, .md, .rst), records (.jsonl, .csv, both also .gz, .parquet, .json), folders of "
            "them, read at any depth, folders written by `Dataset.save_to_disk`, and data sets for `load_dataset`: "
            "hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT."
        },
    )
    text_field: str = field(default="text", metadata={"help": "Name of the text in a record."})
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records without a text, and report them, instead of stopping."}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a tokenizer. By default one is trained on the text."}
    )
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of TrineConfig as key=value: num_hidden_layers=6 'attention_types=sliding*3, full'. "
            "In a recipe a mapping, to which the command line adds.",
            "action": "extend",
        },
    )
    energy_country: str | None = field(
        default=None,
        metadata={
            "help": "Measure energy and CO2 with codecarbon, offline, for this country's electricity (DEU, USA, ...)."
        },
    )
    baselines: bool = field(default=True, metadata={"help": "Compare with unigram and bigram models of the tokens."})


@dataclass
class PretrainTrainingArguments(MuonTraining, TrainingArguments):
    """The trainer's arguments with the usual values for pretraining a small decoder."""

    _argument_group_name = "training (transformers.TrainingArguments)"

    output_dir: str = trainer_default("output_dir", "outputs/pretrain")
    num_train_epochs: float = trainer_default("num_train_epochs", 1.0)
    learning_rate: float = trainer_default("learning_rate", 1e-3)
    weight_decay: float = trainer_default("weight_decay", 0.1)
    adam_beta2: float = trainer_default("adam_beta2", 0.95)
    remove_unused_columns: bool = trainer_default("remove_unused_columns", False)
    include_num_input_tokens_seen: str = trainer_default("include_num_input_tokens_seen", "non_padding")


def parse_overrides(overrides: list[str]) -> dict[str, Any]:
    """`key=value` texts as a dictionary; values are YAML (numbers, lists, true, null, text), and the last one counts.

    Raises:
        ValueError: a text without `=`, or a value that is not YAML.
    """
    import yaml

    parsed = {}
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise ValueError(f"config_overrides has {text!r}, which is not key=value.")
        try:
            parsed[key.strip()] = load_yaml(value)
        except yaml.YAMLError as error:
            raise ValueError(f"config_overrides has {text!r}, whose value is not YAML: {error}") from error
    return parsed
