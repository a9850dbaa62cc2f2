"""Config classes that refuse unknown keywords, and are built again when fields are overridden on loading."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from transformers.utils import logging

from .bounds import check_fields, check_library_keywords
from .choices import in_package
from .patterns import suggest
from .rope_rules import check_rope_form


logger = logging.get_logger(__name__)

# Keywords that are no fields of ours, but that transformers passes to, or writes into, every config.
LIBRARY_KEYWORDS = frozenset(
    (
        *("adapter", "attn_implementation", "auto_map", "custom_pipelines", "distributed_config"),
        *("experts_implementation", "model_type", "name_or_path", "num_labels", "output_attentions"),
        *("partial_rotary_factor", "per_layer_config", "quantization_config", "rope_scaling", "rope_theta"),
        *("task_specific_params", "torch_dtype", "transformers_weights"),
    )
)
# Those of them that are about layers: in an encoder-decoder they are of the stacks, and the others of the whole.
LAYER_KEYWORDS = frozenset(("partial_rotary_factor", "per_layer_config", "rope_scaling", "rope_theta"))
# What other libraries and models call our fields, where the nearest spelling would mislead.
OTHER_NAMES = in_package(
    {
        "attention_probs_dropout_prob": "attention_dropout",
        "dropout": "hidden_dropout",
        "hidden_dropout_prob": "hidden_dropout",
        "layer_norm_eps": "norm_eps",
        "layer_types": "attention_types",
        "n_embd": "hidden_size",
        "n_head": "num_attention_heads",
        "n_layer": "num_hidden_layers",
    }.items()
)


def check_before_use(config: Any, keywords: dict[str, Any]) -> None:
    """Checks the numbers, and what the base class reads and trusts."""
    check_fields(config)
    check_library_keywords(keywords)
    check_rope_form(getattr(config, "rope_parameters", None))


FIRST_CHECKS = in_package((check_before_use,))


class StrictKeywordsMixin:
    """Base of config classes for which an unknown keyword is an error in code, and a warning in a `config.json`."""

    attribute_map: dict[str, str]

    @classmethod
    def unknown_keywords(cls, keywords: Iterable[str]) -> dict[str, str]:
        """Maps each keyword that nothing reads to a message about it."""
        known, ours = LIBRARY_KEYWORDS.union(cls.field_names()), dict(OTHER_NAMES)
        return {
            key: f"{cls.__name__} has no field {key!r}.{suggest(ours.get(key, key), known)}"
            for key in keywords
            if key not in known and not key.startswith("_")
        }

    @classmethod
    def field_names(cls) -> list[str]:
        """Every keyword that is a field."""
        return [field.name for field in fields(cls)]  # pyright: ignore[reportArgumentType] the next base is a dataclass

    @classmethod
    def takes(cls, keyword: str) -> bool:
        """Whether `from_pretrained(..., keyword=value)` builds the config again; `dtype` is left to transformers."""
        return keyword != "dtype" and keyword in cls.field_names()

    @classmethod
    def override(cls, saved: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        """The fields of a saved config with `changes` applied. Values that were derived before saving stay."""
        return {**saved, **changes}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Builds the config of a `config.json`, with the fields among `kwargs` in place of those of the file.

        In the file, unlike in code, a key that is no field is kept with a warning: people and tools leave notes there,
        and a checkpoint must not be lost to one.
        """
        changes = {}
        for key in list(kwargs):
            name = cls.attribute_map.get(key, key)
            if cls.takes(name):
                changes[name] = kwargs.pop(key)
        known, notes = cls.without_notes(config_dict)
        if changes:
            known = cls.override(known, changes)
        result = super().from_dict(known, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] the next base has it
        config = result[0] if isinstance(result, tuple) else result
        config.keep_notes(notes)
        config.check()
        return result

    @classmethod
    def without_notes(cls, saved: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Splits a saved config into its fields and all other keys."""
        unknown = cls.unknown_keywords(saved)
        return {key: saved[key] for key in saved if key not in unknown}, {key: saved[key] for key in unknown}

    def keep_notes(self, notes: dict[str, Any]) -> None:
        """Sets what is no field, with a warning: when the fields are right, and not before an error about them."""
        for message in self.unknown_keywords(notes).values():
            logger.warning(f"{message} It is kept in the config, but changes nothing.")
        for key, value in notes.items():
            setattr(self, key, value)

    def check_given(self, keywords: dict[str, Any]) -> None:
        """Checks the keywords before other fields are derived from them.

        Raises:
            ValueError: For an unknown keyword, a number beyond all bounds, or a field that the base class cannot read.
        """
        for message in self.unknown_keywords(keywords).values():
            raise ValueError(message)
        for check in FIRST_CHECKS:
            check(self, keywords)
