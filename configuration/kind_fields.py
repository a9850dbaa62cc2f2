"""The config fields that a mechanism of somebody's own adds: what they are by default, and what they may be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


Value = bool | int | float | str


@dataclass(frozen=True)
class KindField:
    """One field, a number, a text or a truth value. The type of the default is its type.

    Args:
        default: What a config has that does not name the field.
        doc: What it is, with its unit.
        minimum: The least that a number may be.
        above: What a number must be above.
        maximum: The most that a number may be.
        choices: All that it may be.

    Raises:
        ValueError: The default is none of these types, or not allowed by the rest.

    Example:
        >>> KindField(1.0, "Factor on the scores.", above=0).check("my_scale", -2.0)
        Traceback (most recent call last):
        ValueError: my_scale=-2.0 must be above 0.
    """

    default: Value
    doc: str = ""
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    choices: Sequence[Value] | None = None

    def __post_init__(self):
        if not isinstance(self.default, Value):
            raise ValueError(f"default={self.default!r} must be a bool, an int, a float or a str.")
        self.check("default", self.default)

    def check(self, name: str, value: Any) -> None:
        """Raises a `ValueError` unless the field `name` may have that value."""
        kind = type(self.default)
        allowed = (int, float) if kind is float else (kind,)
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{name}={value!r} must be {'an' if kind is int else 'a'} {kind.__name__}.")
        if self.choices is not None and value not in self.choices:
            raise ValueError(f"{name}={value!r} is not one of {list(self.choices)}.")
        number: Any = value
        if self.minimum is not None and not number >= self.minimum:
            raise ValueError(f"{name}={value!r} must be at least {self.minimum}.")
        if self.above is not None and not number > self.above:
            raise ValueError(f"{name}={value!r} must be above {self.above}.")
        if self.maximum is not None and not number <= self.maximum:
            raise ValueError(f"{name}={value!r} must be at most {self.maximum}.")
