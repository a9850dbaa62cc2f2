"""Bounds of the sizes and numbers that a config may ask for, checked before anything is built.

A `config.json` may come from anywhere. None of these limits is near what a computer can train.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any

from .patterns import MOST_LAYERS


LARGEST_INTEGER = 10**9
LARGEST_NUMBER = 10**6  # of a factor or a standard deviation: above it, single precision overflows within a few layers
MOST_LABELS = 10**6
MOST_WEIGHTS = 10**14
DTYPES = ("float32", "float16", "bfloat16", "float64", "float", "half", "double", "float8_e4m3fn", "float8_e5m2")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
# Of the fields of transformers' own base class.
LIBRARY_TYPES: dict[str, tuple[type, ...]] = {
    "transformers_version": (str, NoneType),
    "architectures": (list, NoneType),
    "output_hidden_states": (bool, NoneType),
    "return_dict": (bool, NoneType),
    "chunk_size_feed_forward": (int,),
    "is_encoder_decoder": (bool,),
    "id2label": (dict, NoneType),
    "label2id": (dict, NoneType),
}
LIMITS = {"num_hidden_layers": MOST_LAYERS}


def check_number(name: str, value: Any, limit: int = LARGEST_INTEGER) -> None:
    """Raises a `ValueError` for a number that is not finite, or whose size is above `limit`; else passes anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not -limit <= value <= limit:  # NaN, too
        finite = isinstance(value, int) or math.isfinite(value)
        shown = f"an integer of {value.bit_length()} bits" if isinstance(value, int) and abs(value) > 10**30 else value
        raise ValueError(f"{name}={shown} must be {'' if finite else 'a finite number, '}at most {limit:,}.")


def check_fields(config) -> None:
    """Checks every field that holds a number, and those of the base class, whose types it does not check itself."""
    for field in fields(config):
        value = getattr(config, field.name)
        limit = LARGEST_NUMBER if isinstance(value, float) else LARGEST_INTEGER
        for item in value if isinstance(value, list) else [value]:
            check_number(field.name, item, LIMITS.get(field.name, limit))
        if field.name in LIBRARY_TYPES and not isinstance(value, LIBRARY_TYPES[field.name]):
            names = " or ".join(type_.__name__ for type_ in LIBRARY_TYPES[field.name])
            raise ValueError(f"{field.name}={value!r} must be {names}.".replace("NoneType", "None"))
    check_dtype("dtype", config.dtype)
    if config.problem_type not in (None, *PROBLEM_TYPES):
        raise ValueError(f"problem_type={config.problem_type!r} is not one of {list(PROBLEM_TYPES)}, nor None.")
    if config.id2label == {} or not all(str(key).isdecimal() for key in config.id2label or ()):
        raise ValueError(f"id2label={config.id2label!r} must map the number of each label to its name, or be None.")
    size = config.chunk_size_feed_forward  # which changes no result
    if isinstance(size, bool) or size < 0:
        raise ValueError(f"chunk_size_feed_forward={size} must be an integer of at least 0.")


def check_dtype(name: str, dtype: Any) -> None:
    """Raises a `ValueError` for what is neither a dtype of PyTorch nor the name of one; None passes.

    So does "auto", which `transformers serve` asks a config to be read with: the dtype of the weights.
    """
    if dtype is not None and dtype not in (*DTYPES, "auto") and not str(dtype).startswith("torch."):
        raise ValueError(f"{name}={dtype!r} is not one of {list(DTYPES)}.")


def check_library_keywords(keywords: Mapping[str, Any]) -> None:
    """Checks keywords that the base class trusts, and that are no fields."""
    check_dtype("torch_dtype", keywords.get("torch_dtype"))
    number = keywords.get("num_labels")
    if number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(f"num_labels={number!r} must be an integer.")
    if not 1 <= number <= MOST_LABELS:
        raise ValueError(f"num_labels={number} must be at least 1, and at most {MOST_LABELS:,}.")


def check_weights(parts: Mapping[tuple[str, ...], int], config) -> None:
    """Raises a `ValueError` if the part of the model that has most weights has more than any computer could hold.

    Args:
        parts: Fields whose product says how many weights a part has, and the number of such parts.
        config: What the fields are read from.
    """
    sizes = {
        names: number * math.prod(getattr(config, name) or 0 for name in names) for names, number in parts.items()
    }
    names = max(sizes, key=sizes.__getitem__)
    if sizes[names] > MOST_WEIGHTS:
        shown = " and ".join(f"{name}={getattr(config, name)}" for name in names)
        raise ValueError(f"{shown} ask for {sizes[names]:.1e} weights; {MOST_WEIGHTS:.0e} is the most.")
