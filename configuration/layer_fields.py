"""Config fields with a value per layer, read layer by layer."""

from typing import Any

from .choices import Choices
from .input_kinds import INPUT_KINDS
from .kinds import ATTENTION_KINDS, KIND_TABLES


FIELD_TABLES = {**KIND_TABLES, "input_type": INPUT_KINDS}


class PluginFieldsMixin:
    """Base of config classes whose kinds may have fields of their own, as registered ones and inputs have."""

    @staticmethod
    def plugin_fields() -> dict[str, Any]:
        """The config fields that registered kinds have, by name."""
        rows = [row for table in FIELD_TABLES.values() for row in table.values()]
        return {name: spec for row in rows for name, spec in row.fields}

    @classmethod
    def field_names(cls) -> list[str]:
        return [*super().field_names(), *cls.plugin_fields()]  # pyright: ignore[reportAttributeAccessIssue] of the next base

    def plugin_fields_in_use(self) -> dict[str, Any]:
        """The config fields of registered kinds that the config names, which it has as attributes."""
        found = {}
        for field, table in FIELD_TABLES.items():
            value = getattr(self, field)
            for kind in value if isinstance(value, list) else [value]:
                found |= dict(table[kind].fields if kind in table else ())
        return found

    @property
    def has_plugin_fields(self) -> bool:
        return bool(self.plugin_fields_in_use())

    def take_plugin_fields(self, keywords: dict[str, Any]) -> None:
        """Sets the fields of the kinds that the config names, and takes them out of the keywords."""
        for name, spec in self.plugin_fields_in_use().items():
            setattr(self, name, keywords.pop(name, spec.default))


PLUGIN_FIELDS = Choices("has_plugin_fields", {True: PluginFieldsMixin})


class LayerFieldsMixin(*PLUGIN_FIELDS.values()):  # pyright: ignore[reportGeneralTypeIssues] one or none
    """Base of config classes with `attention_types` and `mlp_layer_types`."""

    num_hidden_layers: int
    attention_types: Any
    mlp_layer_types: Any
    rope_parameters: Any

    @classmethod
    def override(cls, saved: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        """Overrides fields of a saved config. A smaller `num_hidden_layers` keeps the kinds of the first layers.

        Raises:
            ValueError: When there are more layers than the saved config has kinds for.
        """
        merged = super().override(saved, changes)  # pyright: ignore[reportAttributeAccessIssue] of the next base
        layers = changes.get("num_hidden_layers")
        for field in ("attention_types", "mlp_layer_types"):
            kinds = saved.get(field)
            if field in changes or not isinstance(kinds, list) or not isinstance(layers, int):
                continue
            if layers > len(kinds):
                raise ValueError(
                    f"num_hidden_layers={layers} is more than the {len(kinds)} entries of {field} that were saved. "
                    f"Give {field}, too."
                )
            merged[field] = kinds[: max(layers, 0)]
        if "mlp_layer_types" in changes and "sparse" not in saved.get("mlp_layer_types", ()):
            merged["router_aux_loss_coef"] = changes.get("router_aux_loss_coef")  # a dense model has 0, whatever it is
        return merged

    @property
    def layer_types(self) -> list[str]:
        """transformers' name of each layer's attention, which keys its caches and masks. Derived, never serialised.

        Only of the first `num_hidden_layers`: `generate(assistant_early_exit=...)` lowers that for a while. To lower
        it and then set these types, as PEFT's SHADOW does, is to take the first layers for good.
        """
        return [ATTENTION_KINDS[kind].layer_type for kind in self.attention_types[: self.num_hidden_layers]]

    @layer_types.setter
    def layer_types(self, layer_types: list[str]) -> None:
        if list(layer_types) != self.layer_types:
            raise ValueError(
                f"layer_types={layer_types} follows from attention_types={self.attention_types}: set attention_types."
            )
        self.attention_types = self.attention_types[: self.num_hidden_layers]
        self.mlp_layer_types = self.mlp_layer_types[: self.num_hidden_layers]

    @property
    def tells_sequences_apart(self) -> bool:
        """Whether some layer reads padding and packed sequences apart from masks, always or to make a band."""
        return any(ATTENTION_KINDS[kind].sees_by != "mask" for kind in self.attention_types)

    @property
    def has_pair_scores(self) -> bool:
        """Whether every layer scores pairs of tokens, so that a bias, a scale and dropout can act on the scores."""
        return all(ATTENTION_KINDS[kind].has_pair_scores for kind in self.attention_types)

    @property
    def has_layered_rope(self) -> bool:
        """Whether `rope_parameters` holds parameters for each layer type."""
        return any(isinstance(value, dict) for value in (self.rope_parameters or {}).values())

    def rope_parameters_of(self, layer_type: str) -> dict[str, Any]:
        """The rotary parameters of the layers of one type."""
        parameters = self.rope_parameters or {}
        return parameters[layer_type] if self.has_layered_rope else parameters


def check_prefix(config) -> None:
    """Raises a `ValueError` for `prefix_lm=True` where no mask of pairs of tokens tells what a token sees."""
    if not config.is_causal or config.add_cross_attention:
        raise ValueError(
            f"prefix_lm=True is for a decoder by itself, but is_causal={config.is_causal}, "
            f"add_cross_attention={config.add_cross_attention}."
        )
    choices = [kind for kind, row in ATTENTION_KINDS.items() if row.sees_by != "tokens"]
    for index, kind in enumerate(config.attention_types):
        if kind not in choices:
            raise ValueError(
                f"prefix_lm=True needs layers with a mask of pairs of tokens, but attention_types[{index}]={kind!r} "
                f"is not one of {choices}."
            )


# It goes along with a checkpoint: what it forbids would change results without an error.
PREFIX_RULES = Choices("prefix_lm", {True: check_prefix})
