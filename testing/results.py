"""A check, what it found, and how a difference is told."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


class Difference(Exception):
    """What a check found to differ, and by how much.

    Attributes:
        is_rounding: Whether float32 would differ as much by rounding alone, in a model of float64.
    """

    def __init__(self, told: str, is_rounding: bool = False):
        super().__init__(told)
        self.is_rounding = is_rounding


ROUNDING = 1e-5  # what float32 may differ by in a small model, in units of the larger value


class DoesNotApply(Exception):
    """Why a check says nothing about a mechanism."""


@dataclass(frozen=True)
class Check:
    """One property that a mechanism must have.

    Attributes:
        name: What it is called in tables and tests.
        run: Function of a `Subject`. It returns what it measured, or None; and raises `Difference`, `DoesNotApply`, or
            whatever error the mechanism raises.
        hint: How a mechanism that fails is mended.
        kinds: The config fields whose mechanisms have it, by default all.
    """

    name: str
    run: Callable[[Any], str | None]
    hint: str
    kinds: tuple[str, ...] = ("attention_types", "position_type", "mlp_layer_types", "router_type")


@dataclass(frozen=True)
class Result:
    """The outcome of one check.

    Attributes:
        name: That of the check.
        passed: Whether the mechanism has the property; None if the check does not apply to it.
        detail: What differs and by how much, what was measured, or why it does not apply.
        hint: How to mend it, where it failed.
        seconds: What the check took.
    """

    name: str
    passed: bool | None
    detail: str
    hint: str
    seconds: float


def require_equal(actual: torch.Tensor, expected: torch.Tensor, what: str, tolerance: float = 1e-9) -> float:
    """Raises a `Difference` unless two tensors of one shape differ by at most `tolerance`, in units of the larger.

    Returns:
        The largest difference.
    """
    if actual.shape != expected.shape:
        raise Difference(f"{what}: the shape is {tuple(actual.shape)}, and should be {tuple(expected.shape)}")
    require_finite(actual, what)
    require_finite(expected, what)
    if not actual.numel():
        return 0.0
    largest = (actual.double() - expected.double()).abs().max().item()
    scale = max(1.0, expected.double().abs().max().item())
    if largest > tolerance * scale:
        told = f"{what}: differs by {largest:.2g}, of values up to {scale:.2g}"
        raise Difference(told, is_rounding=largest <= ROUNDING * scale)
    return largest


def require_finite(tensor: torch.Tensor, what: str) -> None:
    """Raises a `Difference` for infinite values and NaN."""
    if not tensor.isfinite().all():
        count = int((~tensor.isfinite()).sum())
        raise Difference(f"{what}: {count} of {tensor.numel()} values are NaN or infinite")


def require_same_tokens(actual: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Raises a `Difference` unless two batches of ids are equal."""
    if actual.tolist() != expected.tolist():
        row = next(
            i for i, pair in enumerate(zip(actual.tolist(), expected.tolist(), strict=True)) if pair[0] != pair[1]
        )
        raise Difference(f"{what}: the tokens are {actual[row].tolist()}, and should be {expected[row].tolist()}")


def describe_error(error: BaseException, file: str | None) -> str:
    """An error in one line, with the place in the mechanism's file where it passed through."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    text = f"{type(error).__name__}: {lines[0]}" if lines[0] else type(error).__name__
    places = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return text + (f" (line {places[-1]})" if places else "")
