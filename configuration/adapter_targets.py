"""The modules of a Trine model that PEFT adapts by default, for `LoraConfig()`, `IA3Config()` and other methods."""

import sys
from collections.abc import MutableMapping
from typing import Any


# Trine's layers are named as Llama's are; an LSTM has one projection outside of it.
LIKE_LLAMA = ("trine", "trine_seq2seq")
RECURRENT = {"trine_recurrent": ["combine"]}
NORM_TUNING = "TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING"
# Not the final one, which post-norm stacks do not have: PEFT fails where a target is none.
OWN_NORMS = ["input_layernorm", "post_attention_layernorm", "cross_attention_layernorm"]


def target_tables() -> dict[str, MutableMapping[str, list[str]]]:
    """PEFT's tables of targets by their names, each from model type to names of modules; those that have Llama.

    None of them as long as nobody has imported PEFT.
    """
    constants = vars(sys.modules.get("peft.utils.constants", object))
    tables = {name: table for name, table in constants.items() if name.startswith("TRANSFORMERS_MODELS_TO_")}
    tables = {name: table for name, table in tables.items() if name.endswith("_MODULES_MAPPING")}
    return {name: table for name, table in tables.items() if isinstance(table, MutableMapping) and "llama" in table}


def register_targets() -> None:
    """Adds Trine's rows to PEFT's tables, as far as these are loaded. Rows that a user wrote stay."""
    for name, table in target_tables().items():
        rows = dict.fromkeys(LIKE_LLAMA, OWN_NORMS if name == NORM_TUNING else table["llama"])
        if name != NORM_TUNING:  # an LSTM has no norms
            rows |= RECURRENT
        for model_type, targets in rows.items():
            table.setdefault(model_type, list(targets))


class AdapterTargetsMixin:
    """Base of config classes that tells PEFT the default targets as soon as PEFT reads the config.

    The order of the imports does not matter, neither package imports the other, and remote code works likewise.
    """

    def to_dict(self) -> dict[str, Any]:
        register_targets()
        return super().to_dict()  # pyright: ignore[reportAttributeAccessIssue] the next base has it
