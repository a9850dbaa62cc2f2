"""Public names of a package that are imported at their first use."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """What a package calls `__getattr__` and `__dir__`, for the names that its `if TYPE_CHECKING:` imports.

    That block is the one place where a name's module stands: type checkers read it as it is, and here it is read when
    the first of the names is asked for. A name must not be that of a module of the package, which Python would put in
    its place.
    """
    module = sys.modules[package]
    places: dict[str, tuple[str, str]] = {}

    def get(name: str) -> Any:
        if not places and name in module.__all__:
            places.update(guarded_imports(Path(str(module.__file__))))
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        source, original = places[name]
        value = getattr(import_module(source, package), original)
        setattr(module, name, value)
        return value

    return get, lambda: sorted({*vars(module), *module.__all__})


def guarded_imports(file: Path) -> dict[str, tuple[str, str]]:
    """Relative module and name there of each name that a file imports below `if TYPE_CHECKING:`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in guarded for node in block.body if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname or alias.name: ("." * node.level + (node.module or ""), alias.name)
        for node in imports
        for alias in node.names
    }
