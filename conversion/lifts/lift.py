"""Lifts a model in memory to another architecture with the same function."""

from dataclasses import fields
from typing import Any

from ...configuration.patterns import check_choice, suggest
from .base import Lift
from .checks import check_model
from .table import LIFTS


def lift(model: Any, kind: str, **options) -> Any:
    """Makes a model of another architecture that computes the same, as far as its kind says, and trains on from there.

    Args:
        model: Any Trine model but a recurrent one. It stays as it is.
        kind: `simplicial` (dot-product attention becomes 2-simplicial), `sliding` (full attention gets a window),
            `sparse` (dense feed-forwards become experts), `deeper` (more layers), `shallower` (fewer), `longer` (more
            positions), `encoder` (a decoder reads both ways: another function), `encoder_decoder` (an encoder gets a
            decoder), `smaller_vocabulary` (tokens that texts lack go), `full`, or a registered kind that says what it
            `equals`.
        options: Those of the lift, most of them named as the config's fields: see `trine lift --to KIND --help`.

    Returns:
        A model with the type, device, mode and generation config of `model`, and copies of its weights. What is new
        and random follows torch's seed. `largest_change`, beside this function, measures how exact it is.

    Raises:
        ValueError: An option is unknown or does not fit, or the model has something that forbids the lift.

    Example:
        >>> model = lift(TrineForCausalLM(config), "simplicial", layers=[3], simplicial_window=64)  # doctest: +SKIP
    """
    made = make_lift(kind, options)
    check_model(model)
    return made.apply(model)


def make_lift(kind: str, options: dict[str, Any]) -> Lift:
    """Makes the lift of a kind with its options; a `ValueError` if there is no such kind or option."""
    check_choice("kind", kind, LIFTS)
    for name in options:
        check_option(kind, name)
    return LIFTS[kind](**options)


def check_option(kind: str, name: str) -> None:
    """Raises a `ValueError` unless a lift has an option; the message names its options, and lifts with this one."""
    names = option_names(kind)
    if name not in names:
        others = [other for other in LIFTS if name in option_names(other)]
        hint = f" {name!r} is one of {others}." if others else suggest(name, names)
        raise ValueError(f"The lift {kind!r} has no option {name!r}, but {names}.{hint}")


def option_names(kind: str) -> list[str]:
    """The names of a lift's options."""
    return [field.name for field in fields(LIFTS[kind])]
