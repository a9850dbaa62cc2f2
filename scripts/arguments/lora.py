"""The options of LoRA, shared by several commands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from torch import nn

from trine.training.adapters.lora import PARTS, make_lora_config


ADAPTER = "adapter"  # the folder of the adapters beside the model that they are merged into


@dataclass
class LoraArguments:
    """Options of LoRA: adapters of low rank beside frozen weights."""

    _argument_group_name = "LoRA"

    rank: int = field(default=16, metadata={"help": "Rank of the adapters: they train 2 * rank * width a projection."})
    alpha: float = field(default=32.0, metadata={"help": "The adapters' output is multiplied by alpha / rank."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapters. Not for 'experts'."})
    use_dora: bool = field(
        default=False, metadata={"help": "Learn the weights' magnitudes apart, as DoRA does. Not for 'experts'."}
    )
    targets: list[str] = field(
        default_factory=list, metadata={"help": f"Which of {', '.join(PARTS)} get adapters. Default: all there are."}
    )
    merge: bool = field(
        default=False,
        metadata={
            "help": "In the end write a plain checkpoint with the adapters merged, and the adapters themselves to "
            f"output_dir/{ADAPTER}."
        },
    )

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1.")

    def make_config(self, model: nn.Module, **fields: Any) -> LoraConfig:
        """The LoRA config for `model`; see `make_lora_config` for `fields` and errors."""
        options = {name: getattr(self, name) for name in ("rank", "alpha", "dropout", "use_dora")}
        return make_lora_config(model, targets=self.targets or None, **options, **fields)


@dataclass
class OptionalLoraArguments(LoraArguments):
    """Options of LoRA adapters for a command that else trains all weights."""

    lora: bool = field(default=False, metadata={"help": "Train adapters, instead of all weights."})

    def __post_init__(self):
        super().__post_init__()
        if self.merge and not self.lora:
            raise ValueError("merge=True has nothing to merge without lora=True.")


def count_parameters(model: nn.Module) -> Mapping[str, int | float]:
    """Counts the parameters without adapters and those that are trained, and divides."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    beside = (".lora_", ".modules_to_save.")  # adapters, and copies of what is trained whole
    own = (parameter for name, parameter in model.named_parameters() if not any(mark in name for mark in beside))
    base = sum(parameter.numel() for parameter in own)
    return {"parameters": base, "trained_parameters": trained, "trained_share": trained / base}


def remove_adapter(folder: Path) -> None:
    """Removes the adapter of an earlier run without `merge`, which transformers would load in place of the model."""
    for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
        (folder / name).unlink(missing_ok=True)
