"""The parts of a checkpoint's code for registered mechanisms, which are not the package's."""

from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .bundle_sources import ABOUT, INDENT
from .kinds import KIND_TABLES
from .plugin_files import files_with, names_from_package, source_of, to_checkpoint
from .plugin_rows import PLUGINS, Plugin


logger = logging.get_logger(__name__)
NOT_SHARED = (
    "%s is saved without the model's code: %r (%s=%r) %s. "
    "Whoever loads it needs the file that registers the mechanism, and loads it first."
)


@dataclass(frozen=True)
class PluginParts:
    """The parts of packed files for registered mechanisms.

    Attributes:
        rows: Field, name and text of each row.
        names: Names that their files import from the package, each with the module that defines it.
        files: Name and text of each file.
    """

    rows: tuple[tuple[str, str, str], ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()


NO_PLUGINS = PluginParts()


def stacks_of(config: Any) -> list[Any]:
    """Lists a config and the configs within it."""
    return [config, *(getattr(config, name) for name in config.sub_configs)]


def named_choices(config: Any, field: str) -> frozenset:
    """The values of a field in all stacks of a config; of a list, each of its values.

    Defaults of the inner configs count, too: transformers makes such configs when it prints or saves the outer one.
    """
    stacks = stacks_of(config)
    stacks += [kind() for kind in dict.fromkeys(map(type, stacks[1:]))]
    values = [getattr(stack, field) for stack in stacks if hasattr(stack, field)]
    return frozenset(item for value in values for item in (value if isinstance(value, list) else [value]))


def plugins_in_use(config: Any) -> list[Plugin]:
    """The mechanisms of somebody's own that a config names."""
    return [plugin for plugin in PLUGINS if plugin.name in named_choices(config, plugin.field)]


def plugin_parts(config: Any) -> PluginParts:
    """The parts of packed files for the registered mechanisms that a config names."""
    plugins = plugins_in_use(config)
    rows = [
        (plugin.field, plugin.name, row_text(plugin.name, KIND_TABLES[plugin.field][plugin.name]))
        for plugin in plugins
    ]
    sources = [source for plugin in plugins if (source := source_of(plugin.mechanism)) is not None]
    paths = list(dict.fromkeys(path for source in sources for path in files_with(source)))
    modeling = f"modeling_{config.model_type}"
    return PluginParts(
        tuple(rows),
        tuple(names_from_package(paths).items()),
        tuple((path.name, to_checkpoint(path, modeling)) for path in paths),
    )


def quote(key: object) -> str:
    """The source of a table's key, with double quotes."""
    return f'"{key}"' if isinstance(key, str) else repr(key)


def row_text(name: str, row: Any) -> str:
    """A row as source, where a table has its rows."""
    return f"{quote(name)}: {source_text(row)}".replace("\n", "\n" + " " * INDENT)


def source_text(value: Any) -> str:
    """A value of a row as source; of a dataclass, without defaults, and without what stays in the package."""
    if isinstance(value, tuple):
        return f"({indented([source_text(item) for item in value])})"
    if not is_dataclass(value):
        return f'"{value}"' if isinstance(value, str) and '"' not in value and "\\" not in value else repr(value)
    shown = {item.name: getattr(value, item.name) for item in fields(value) if item.name != ABOUT}
    defaults = {item.name: item.default for item in fields(value)}
    lines = [f"{key}={source_text(item)}" for key, item in shown.items() if item != defaults[key]]
    return f"{type(value).__name__}({indented(lines)})"


def indented(lines: list[str]) -> str:
    """Lines of source one level further in, between brackets."""
    inner = "".join(f"\n{line}," for line in lines)
    return inner.replace("\n", "\n    ") + "\n" * bool(lines)


def stays_behind(config: Any, folder: Path) -> bool:
    """Whether a config names a mechanism that cannot go along, which a warning then tells."""
    for plugin in plugins_in_use(config):
        has_file = source_of(plugin.mechanism) is not None
        if not (plugin.shareable and has_file):
            why = "was registered with shareable=False" if has_file else "stands in no file that can be imported"
            logger.warning(NOT_SHARED, folder, plugin.mechanism.__name__, plugin.field, plugin.name, why)
            return True
    return False
