"""The rules of `rope_parameters`: what transformers' rotary functions read, and what it must be."""

from typing import Any

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .bounds import check_number
from .kinds import ATTENTION_KINDS
from .patterns import check_choice


ROPE_TYPES = ("default", *ROPE_INIT_FUNCTIONS)
# Beside `rope_theta`, which the base class fills in.
NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
# Numbers above 0 that may be None where no type needs them.
POSITIVE = (
    "factor",
    "rope_theta",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
)
SMALLEST = {"dynamic": 4}  # features that are rotated: its exponent is size / (size - 2)
LARGEST_THETA = 10**12


def check_rope_form(parameters: dict[str, Any] | None) -> None:
    """Raises a `ValueError` unless the parameters of each layer type are a dict: the base class trusts they are."""
    layer_types = {kind.layer_type for kind in ATTENTION_KINDS.values()}
    for key, value in (parameters or {}).items():
        if key in layer_types and not isinstance(value, dict):
            raise ValueError(f"rope_parameters[{key!r}]={value!r} must be a dict of rotary parameters.")


def check_rope(config) -> None:
    """Checks the rotary parameters of every layer type; raises a `ValueError` at the first that is wrong."""
    if config.position_type != "rope":
        return
    check_rope_form(config.rope_parameters)
    for layer_type in dict.fromkeys(config.layer_types):
        place = f"rope_parameters[{layer_type!r}]" if config.has_layered_rope else "rope_parameters"
        check_rope_parameters(place, config.rope_parameters_of(layer_type), config.head_dim)


def check_rope_parameters(place: str, parameters: dict[str, Any], head_dim: int) -> None:
    """Checks one set of parameters.

    Args:
        place: What the messages call it.
        parameters: The set.
        head_dim: Size of a head, of which `partial_rotary_factor` is rotated.

    Raises:
        ValueError: With the key, its value and what is allowed.
    """
    rope_type: Any = parameters.get("rope_type")
    check_choice(f"{place}['rope_type']", rope_type, ROPE_TYPES)
    for key in NEEDED.get(rope_type, ()):
        if parameters.get(key) is None:
            raise ValueError(f"{place} has no {key!r}, which rope_type={rope_type!r} needs.")
    for key in POSITIVE:
        if key == "rope_theta" or parameters.get(key) is not None:
            check_positive(f"{place}[{key!r}]", parameters.get(key))
    if (parameters.get("factor") or 1) < 1:
        raise ValueError(f"{place}['factor']={parameters['factor']} must be at least 1.")
    fraction, least = parameters.get("partial_rotary_factor") or 1, SMALLEST.get(rope_type, 2)
    if fraction > 1 or int(head_dim * fraction) < least:
        raise ValueError(
            f"{place}['partial_rotary_factor']={fraction} must be at most 1, and rotate {least} of the "
            f"head_dim={head_dim} features at least with rope_type={rope_type!r}."
        )
    if rope_type == "llama3" and parameters["high_freq_factor"] <= parameters["low_freq_factor"]:
        raise ValueError(
            f"{place}['high_freq_factor']={parameters['high_freq_factor']} must be above "
            f"low_freq_factor={parameters['low_freq_factor']}."
        )
    if rope_type == "yarn" and (parameters.get("beta_fast") or 32) <= (parameters.get("beta_slow") or 1):
        raise ValueError(
            f"{place}['beta_fast']={parameters.get('beta_fast') or 32} must be above "
            f"beta_slow={parameters.get('beta_slow') or 1}."
        )
    if rope_type == "longrope":
        size = int(head_dim * fraction) // 2
        for key in ("short_factor", "long_factor"):
            check_factors(f"{place}[{key!r}]", parameters[key], size)


def check_positive(name: str, value: Any) -> None:
    """Raises a `ValueError` unless a value is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}={value!r} must be a number.")
    check_number(name, value, LARGEST_THETA)
    if value <= 0:
        raise ValueError(f"{name}={value} must be above 0.")


def check_factors(name: str, factors: Any, size: int) -> None:
    """Checks a list with a factor for each pair of features that is rotated."""
    if not isinstance(factors, list) or len(factors) != size:
        raise ValueError(f"{name}={factors!r} must be a list of {size} numbers, one for each rotated pair.")
    for index, factor in enumerate(factors):
        check_positive(f"{name}[{index}]", factor)
