"""Layers of one kind become layers of another, where the row of one says that it equals the other."""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, make_dataclass
from typing import Any

import torch

from ...configuration.configuration_trine import TrineConfig
from ...configuration.kind_rows import Kind
from ...configuration.kinds import KIND_TABLES
from ...configuration.validation import check_plugins
from .base import LayerLift, layers_of
from .reach import exact_length
from .weights import build, class_options


FIELDS = ("attention_types", "mlp_layer_types")  # whose rows may say what they equal


@dataclass
class KindLift(LayerLift):
    """Gives layers another kind, with the weights that both have.

    The row of the new kind says that it equals the old one, or the other way round: the old weights that are lost must
    then be those that a new layer has.
    """

    def find_sources(self, config: TrineConfig) -> Collection[str]:
        """The kinds that the target equals, or that equal it."""
        rows = KIND_TABLES[self.field_name]
        return [kind for kind in rows if self.target in equals_of(rows[kind]) or kind in equals_of(rows[self.target])]

    def change(self, config: TrineConfig) -> Sequence[int]:
        """Changes the layers, and asks what one kind says of the other whether they compute the same."""
        before, rows = deepcopy(config), KIND_TABLES[self.field_name]
        layers = super().change(config)
        check_plugins(config)
        for old in dict.fromkeys(kind for kind, _ in changes(before, config, self.field_name)):
            teller, told, other = self.target, config, old
            if old not in equals_of(rows[self.target]):
                teller, told, other = old, before, self.target
            check = equals_of(rows[teller])[other]
            if check is not None:
                check(told)
        return layers

    @torch.no_grad()
    def fill(self, old: Any, new: Any) -> None:
        """Raises a `ValueError` where weights of the old layers are lost, and are not those of a new layer."""
        fresh: Any = None
        for index in layers_of(old, new, self.field_name):
            kept, found = (model.layers[index].state_dict() for model in (old, new))
            place = f"layers.{index}"
            for name in kept.keys() & found.keys():
                if kept[name].shape != found[name].shape:
                    raise ValueError(
                        f"'{place}.{name}' of {tuple(kept[name].shape)} would be of {tuple(found[name].shape)} in a "
                        f"layer of {self.target!r}: weights of one name must have one shape."
                    )
            lost = kept.keys() - found.keys()
            if lost and fresh is None:
                fresh = build(type(old), deepcopy(old.config), old, **class_options(old))
            for name in sorted(lost):
                if not torch.equal(kept[name], fresh.layers[index].state_dict()[name].to(kept[name].dtype)):
                    raise ValueError(
                        f"'{place}.{name}' is none of {self.target!r}, and differs from that of a new layer: with it "
                        f"{getattr(old.config, self.field_name)[index]!r} does not equal {self.target!r}."
                    )

    def exact_length(self, before: TrineConfig, after: TrineConfig) -> int | None:
        """The tokens up to which both kinds see the same."""
        return exact_length(before, after) if self.field_name == "attention_types" else None


def equals_of(row: Kind) -> Mapping[str, Any]:
    """The kinds that a row equals, each with its condition."""
    return getattr(row.about, "equals", {})


def changes(before: TrineConfig, after: TrineConfig, field_name: str) -> list[tuple[str, str]]:
    """The old and the new kind of each layer whose kind has changed."""
    kinds = zip(getattr(before, field_name), getattr(after, field_name), strict=True)
    return [(old, new) for old, new in kinds if old != new]


def make_kind_lift(field_name: str, name: str) -> type[KindLift]:
    """The lift whose layers become those of a kind; the fields that a plugin's kind adds to the config are options."""
    options = [
        (option, type(spec.default) | None, field(default=None, metadata={"help": spec.doc}))
        for option, spec in KIND_TABLES[field_name][name].fields
    ]
    facts = {
        "__doc__": f"Makes layers `{name}` whose kind says that it equals `{name}`, or that `{name}` says it equals.",
        "kind": name,
        "becomes": f"layers that equal them become `{name}`",
        "stays": "up to where both see the same",
        "field_name": field_name,
        "target": name,
        "read_fields": tuple(option for option, *_ in options),
    }
    return make_dataclass(f"{name}_lift", options, bases=(KindLift,), namespace=facts)


def kind_lifts() -> dict[str, type[KindLift]]:
    """A lift to each kind that says that it equals another, and to those others.

    Raises:
        ValueError: Such kinds of two fields have one name.
    """
    found: dict[str, type[KindLift]] = {}
    for field_name in FIELDS:
        rows = KIND_TABLES[field_name]
        named = {kind for row in rows.values() for kind in equals_of(row)}
        for name in rows:
            if name in named or equals_of(rows[name]):
                if name in found:
                    raise ValueError(f"{name!r} is a kind of {list(FIELDS)}, so that no lift can be called so.")
                found[name] = make_kind_lift(field_name, name)
    return found
