"""Lifts models in memory: another architecture, the same function."""

from dataclasses import fields
from typing import Any

from ...configuration.patterns import check_choice, suggest
from ..modeling_trine import TrineModel
from ..modeling_trine_heads import TrineHead
from ..modeling_trine_seq2seq import TrineSeq2SeqModel
from ..modeling_trine_seq2seq_heads import TrineSeq2SeqHead
from .lift_base import Lift
from .lift_table import LIFTS


CLASSES = (TrineModel, TrineHead, TrineSeq2SeqModel, TrineSeq2SeqHead)


def lift(model: Any, kind: str, **options) -> Any:
    """Makes a model of another architecture that computes the same, and trains on from there.

    Args:
        model: Any Trine model but a recurrent one. It stays as it is.
        kind: What becomes another: `simplicial` (layers become 2-simplicial).
        options: Those of the lift, most of which are named as the config's fields: see `trine lift --to KIND --help`.

    Returns:
        A model with the type, device, mode and generation config of `model`, and copies of its weights.

    Raises:
        ValueError: An option is unknown or does not fit, or the model has something that forbids the lift.

    Example:
        >>> model = lift(TrineForCausalLM(config), "simplicial", layers=[3], simplicial_window=64)  # doctest: +SKIP
    """
    made = make_lift(kind, options)
    check_model(model)
    return made.apply(model)


def make_lift(kind: str, options: dict[str, Any]) -> Lift:
    """The lift of a kind, with its options; a `ValueError` names an unknown one, and the lifts that have it."""
    check_choice("kind", kind, LIFTS)
    names = [field.name for field in fields(LIFTS[kind])]
    for name, value in options.items():
        if name not in names:
            others = [other for other in LIFTS if name in {field.name for field in fields(LIFTS[other])}]
            hint = f" The lifts {others} have it." if others else suggest(name, names)
            raise ValueError(f"{name}={value!r} is no option of the lift {kind!r}, which has {names}.{hint}")
    return LIFTS[kind](**options)


def check_model(model: Any) -> None:
    """Raises a `ValueError` unless all of the model's tensors are those of a Trine class, on one device."""
    if not isinstance(model, CLASSES):
        names = [each.__name__ for each in CLASSES]
        raise ValueError(f"model is a {type(model).__name__}, but must be one of {names} or of their subclasses.")
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(devices) > 1:
        raise ValueError(f"model has weights on the devices {devices}; a lift takes one that is on a single device.")
