"""Strategies for values that a field of a config must not have, by the type of the field."""

from collections.abc import Iterator
from dataclasses import Field, fields
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from hypothesis import strategies as st
from transformers import PreTrainedConfig, configuration_utils

from trine import TrineConfig, TrineRecurrentConfig, TrineSeq2SeqConfig
from trine.configuration.validation import POSITIVE_INTEGERS, POSITIVE_NUMBERS, PROBABILITIES


# Values that no number field has.
NO_NUMBERS = [float("nan"), float("inf"), float("-inf"), 10**12, -(10**12), 10**400, 1e30, -1e30, -1, -0.5]
WORDS = ["", "nonsense", "ful", "Full", "full*", "full*0", "full*99999999999", "sliding; full", "\ud800", "x" * 10_000]
JUNK = [None, True, 3, 2.5, "nonsense", [], [None], {}, {"a": 1}, (), b"x", object]
ROPES = [
    {"rope_type": "nonsense"},
    {"rope_type": None},
    {"rope_type": ["default"]},
    {"rope_type": "linear"},
    {"rope_type": "linear", "factor": float("nan")},
    {"rope_type": "linear", "factor": 0.5},
    {"rope_type": "dynamic", "factor": "2"},
    {"rope_type": "yarn"},
    {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1, "beta_slow": 2},
    {"rope_type": "longrope", "short_factor": [1.0], "long_factor": 5},
    {"rope_type": "llama3", "factor": 2.0},
    {"rope_theta": 0},
    {"rope_theta": -1.0},
    {"rope_theta": float("inf")},
    {"rope_theta": "10000"},
    {"rope_theta": True},
    {"partial_rotary_factor": 0},
    {"partial_rotary_factor": 1.01},
    {"partial_rotary_factor": float("nan")},
    {"partial_rotary_factor": []},
    {"full_attention": None},
    {"full_attention": "x"},
    {"full_attention": {"rope_type": "nonsense"}},
    {"nonsense_attention": {}},
]
# What else a field must not hold.
OTHERS = {
    "rope_parameters": ROPES,
    "attention_types": [["full"] * 99, [1] * 8, ["ful"] * 8, ["full"] * 7 + [None]],
    "mlp_layer_types": [["dense"] * 99, [1] * 8, ["Dense"] * 8],
    "eos_token_id": [[], [-1], [10**9], [None], ["1"], [True]],
    "id2label": [{"x": "y"}, {"1.5": "y"}, {"-1": "y"}],
    "num_hidden_layers": [10_001, 0],
    "encoder": [{"hidden_size": 0}, {"nonsense": 1}, TrineRecurrentConfig(), {"attention_types": "ful"}],
    "decoder": [{"hidden_size": -1}, {"attention_types": 5}, TrineRecurrentConfig()],
    "is_encoder_decoder": [],
}
# Text that may be anything.
FREE_TEXT = ("transformers_version",)
# Annotations of the fields of the base class, which are text there.
HINTS = get_type_hints(PreTrainedConfig, {**vars(configuration_utils), "torch": torch})


def types_of(annotation: Any) -> Iterator[type]:
    """The plain types of an annotation: `list` for `list[str]`, and each part of a union."""
    if get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from types_of(part)
    else:
        yield (
            get_origin(annotation) or annotation
        )  # `Literal` counts as no type, so that only None is allowed beside it


def is_allowed(field: Field, value: Any) -> bool:
    """Whether a piece of junk is a legal value of the field, as far as its type tells."""
    types = set(types_of(HINTS.get(field.name, field.type)))
    if value is None:
        return NoneType in types
    if isinstance(value, bool):
        return bool in types
    if isinstance(value, str):
        return field.name in FREE_TEXT
    if isinstance(value, dict):
        return dict in types and (value != {} or field.name != "id2label")
    return bool(types & {list}) and isinstance(value, list) and not value or type(value) in types


def bad_values(field: Field) -> list[Any]:
    """Every value that the strategy of a field draws from."""
    types = set(types_of(HINTS.get(field.name, field.type)))
    values = [value for value in JUNK if not is_allowed(field, value)]
    if types & {int, float}:
        values += NO_NUMBERS
    if field.name in (*POSITIVE_INTEGERS, *POSITIVE_NUMBERS):
        values += [0]
    if field.name in PROBABILITIES:
        values += [1, 1.0, 1.5]
    if str in types and field.name not in FREE_TEXT:
        values += WORDS
    return values + OTHERS.get(field.name, [])


FAMILIES = (TrineConfig, TrineSeq2SeqConfig, TrineRecurrentConfig)
CASES = [(family, field) for family in FAMILIES for field in fields(family)]


@st.composite
def invalid_draws(draw) -> tuple[type, str, Any]:
    """A config class, one of its fields, and a value that it must not have."""
    family, field = draw(st.sampled_from(CASES))
    return family, field.name, draw(st.sampled_from(bad_values(field)))
