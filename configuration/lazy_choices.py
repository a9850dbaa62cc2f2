"""Tables of choices whose rows import a mechanism when it is first asked for."""

from collections.abc import ItemsView, Mapping, ValuesView
from importlib import import_module
from typing import Any, NamedTuple

from .choices import Choices


class later(NamedTuple):
    """A row that is imported at its first use: a name of a module, which is relative to that of the table."""

    module: str
    name: str


class LazyChoices(Choices):
    """Choices of which some are `later(...)`, read by `[]`, `values` and `items`.

    A checkpoint's code has the names themselves, in `Choices`.

    Args:
        field: As of `Choices`.
        rows: As of `Choices`.
        package: What the modules are relative to.
    """

    def __init__(self, field: str, rows: Mapping[Any, Any], package: str | None):
        super().__init__(field, rows)
        self.package = package

    def __getitem__(self, choice: Any) -> Any:
        row = super().__getitem__(choice)
        if isinstance(row, later):
            row = self[choice] = getattr(import_module(row.module, self.package), row.name)
        return row

    def get(self, choice: Any, default: Any = None) -> Any:
        """The row of a choice, imported now, or the default."""
        return (self if choice in self else {choice: default})[choice]

    def values(self) -> ValuesView:
        """All rows, imported now."""
        return {choice: self[choice] for choice in self}.values()

    def items(self) -> ItemsView:
        """All choices with their rows, imported now."""
        return {choice: self[choice] for choice in self}.items()
