"""Tables of what a config field can name. A checkpoint's code holds the rows that its config names, and no others."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any


class Choices(dict):
    """The values that a config field can name, each with its row. A checkpoint's code holds only the rows in use.

    Args:
        field: The field. Of one with a value per layer, all values count.
        rows: By name. The last keyword of a row, `about`, does not go along, nor what it mentions.
        left_out: Names that the package has, but this copy of the code has not.
    """

    def __init__(self, field: str, rows: Mapping[Any, Any], left_out: Iterable[Any] = ()):
        super().__init__(rows)
        self.field = field
        self.left_out = tuple(left_out)

    def __missing__(self, choice: Any) -> Any:
        raise ValueError(f"{self.field}={choice!r} is not one of {list(self)}.{self.advice(choice)}")

    def advice(self, choice: Any) -> str:
        """The end of a message that says where to get a choice that was left out; "" for any other."""
        if choice not in self.left_out:
            return ""
        return (
            " This checkpoint's own code holds what the checkpoint needs. The package has all: `pip install trine`, "
            "then `import trine` before loading."
        )


def in_package(items: Iterable[Any]) -> tuple[Any, ...]:
    """A tuple whose items a checkpoint's code leaves out: there it is empty."""
    return tuple(items)


def from_package(module: str) -> Any:
    """A module of the installed package, for what a checkpoint's code does not hold.

    Raises:
        ImportError: The package is not installed, with how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{module} is not among this checkpoint's code: `pip install trine`.") from error
