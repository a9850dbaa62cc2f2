"""The check of what a row says its kind equals, which lifts believe."""

from contextlib import suppress
from typing import Any

from ..configuration.attention_costs import common_length
from ..configuration.kinds import KIND_TABLES
from .results import Difference, require_equal
from .subjects import Subject, random_ids
from .texts import LENGTH, outputs


def equal_kinds(subject: Subject) -> list[str]:
    """The kinds that a mechanism says it equals, with the fields that its models have."""
    found = []
    for kind, condition in getattr(subject.row.about, "equals", {}).items():
        with suppress(ValueError):
            config = subject.config(**subject.first())
            if condition is not None:
                condition(config)
            found.append(kind)
    return found


def check_equality(subject: Subject) -> str:
    """With the weights of a kind that it says it equals, it computes the same, where both see the same."""
    for kind in equal_kinds(subject):
        for what, fields in subject.cases():
            if fields[subject.field] != subject.name:
                continue  # one beside another kind
            other, model = subject.model(**{**fields, subject.field: kind}), subject.build(**fields)
            told = f"{what}, with the weights of {kind!r}"
            lost = model.load_state_dict(other.state_dict(), strict=False).unexpected_keys
            if lost:
                raise Difference(f"{told}: it has no {lost[0]!r}")
            ids = random_ids(2, seen_alike(subject, kind, model.config, other.config))
            require_equal(outputs(model, ids), outputs(other, ids), told, 1e-6)  # what is new is made in float32
    return f"with {', '.join(equal_kinds(subject))}"


def seen_alike(subject: Subject, kind: str, config: Any, other: Any) -> int:
    """Tokens of a text in which a token sees the same in both kinds."""
    one, two = (getattr(row.about, "span", None) for row in (subject.row, KIND_TABLES[subject.field][kind]))
    return LENGTH if one is None or two is None else int(min(LENGTH, common_length(one(config), two(other))))
