"""The pages of the public names: what mkdocstrings is asked to describe, found by walking the package."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from transformers import PreTrainedConfig

import trine


# The rooms whose public names stand in `trine` itself, and the commands, which have a page of their own.
NOT_ROOMS = {"configuration", "modeling", "scripts"}


def rooms() -> dict[str, ModuleType]:
    """The packages of `trine` that users import from, by name."""
    names = [module.name for module in pkgutil.iter_modules(trine.__path__) if module.ispkg]
    return {name: importlib.import_module(f"trine.{name}") for name in names if name not in NOT_ROOMS}


def public_names(module: ModuleType) -> list[str]:
    """Full names of what a module offers: of its `__all__`, or of the classes and functions that it defines."""
    if hasattr(module, "__all__"):
        found = [f"{module.__name__}.{name}" for name in module.__all__ if not name.startswith("__")]
        return [name for name in found if not is_config(getattr(module, name.rpartition(".")[2]))]
    return [
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        if inspect.isclass(value) or inspect.isfunction(value)
    ]


def is_config(value: object) -> bool:
    """Configs stand in the page of their fields."""
    return isinstance(value, type) and issubclass(value, PreTrainedConfig)


def modules_of(room: ModuleType) -> Iterator[ModuleType]:
    """The room itself where it says what it offers, else all of its modules."""
    if hasattr(room, "__all__"):
        yield room
        return
    for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
        if not found.name.rpartition(".")[2].startswith("_"):
            yield importlib.import_module(found.name)


def api_pages() -> dict[str, str]:
    """The pages of the public names, by the names of their files: one for `trine`, one for each room."""
    pages = {"trine.md": api_page("trine", [trine])}
    for name, room in rooms().items():
        pages[f"{name}.md"] = api_page(f"trine.{name}", list(modules_of(room)))
    return pages


def api_page(title: str, modules: list[ModuleType]) -> str:
    """The page of one package: its public names, module by module."""
    lines = [f"# {title}\n"]
    for module in modules:
        names = public_names(module)
        if names and module.__name__ != title:
            summary = (inspect.getdoc(module) or "").partition("\n\n")[0]
            lines += [f"## {module.__name__.removeprefix(title + '.')}\n", f"{summary}\n"]
        for name in names:
            lines += [f"::: {name}\n", *call_of(getattr(module, name.rpartition(".")[2]))]
    return "\n".join(lines)


def call_of(value: Any) -> list[str]:
    """The arguments of a head's `forward`, which is made: who reads the source does not find them."""
    if not hasattr(value, "output_class"):
        return []
    parameters = list(inspect.signature(value.forward).parameters.values())[1:-1]
    arguments = "".join(f"    {parameter},\n" for parameter in parameters)
    return [f"```text\n{value.__name__}.forward(\n{arguments}    **kwargs,\n) -> {value.output_class.__name__}\n```\n"]
