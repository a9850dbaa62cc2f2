"""The modules of a Trine model that PEFT adapts by default, for `LoraConfig()`, `IA3Config()` and other methods."""

import re
import sys
from collections.abc import MutableMapping
from typing import Any


TABLE_NAME = r"TRANSFORMERS_MODELS_TO_\w+_MODULES_MAPPING"
NORM_TUNING = "TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING"
# Not the final one, which post-norm stacks do not have: PEFT fails where a target is none.
OWN_NORMS = ["input_layernorm", "post_attention_layernorm", "cross_attention_layernorm"]


def target_tables() -> dict[str, MutableMapping[str, list[str]]]:
    """PEFT's tables of targets by their names, each from model type to names of modules; those that have Llama.

    None of them as long as nobody has imported PEFT.
    """
    constants = vars(sys.modules.get("peft.utils.constants", object)).items()
    tables = {name: table for name, table in constants if re.fullmatch(TABLE_NAME, name)}
    return {name: table for name, table in tables.items() if isinstance(table, MutableMapping) and "llama" in table}


class AdapterTargetsMixin:
    """Base of config classes that tells PEFT the default targets as soon as PEFT reads the config.

    The order of the imports does not matter, neither package imports the other, and remote code works likewise.
    """

    model_type: str
    adapter_targets: tuple[str, ...] = ()  # of a model without norms; others have Llama's names of modules

    def to_dict(self) -> dict[str, Any]:
        for name, table in target_tables().items():  # rows that somebody wrote stay
            own = OWN_NORMS if name == NORM_TUNING else table["llama"]
            if not (self.adapter_targets and name == NORM_TUNING):
                table.setdefault(self.model_type, list(self.adapter_targets or own))
        return super().to_dict()  # pyright: ignore[reportAttributeAccessIssue] the next base has it
