"""Arguments of training parts of a model, shared by all commands that train."""

from dataclasses import dataclass

from trine.training.run.freezing import PartialTraining


@dataclass
class PartialTrainingArguments(PartialTraining):
    """Options of training parts of a model: frozen ones, rates of layers, unfreezing."""

    _argument_group_name = "parts of the model"
