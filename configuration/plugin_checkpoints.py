"""The mechanisms of somebody's own that a checkpoint brings, for whoever trusts their code.

The Auto classes do not tell a registered class that `trust_remote_code=True` was given, so that somebody has to ask.
"""

import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_cached_module_file
from transformers.utils.hub import HF_MODULES_CACHE

from .kinds import KIND_TABLES
from .plugin_files import IN_CHECKPOINT, PACKAGE, load_plugin
from .plugin_rows import PLUGINS


def load_checkpoint_plugins(source: str) -> ModuleType | None:
    """Loads the files that register what a checkpoint's config names, as far as nothing has registered it.

    Args:
        source: A checkpoint's folder, or its name on the Hub.

    Returns:
        The module of the last of these mechanisms, or None if the checkpoint has none.

    Raises:
        OSError: There is no such checkpoint, or it has no code.
        ValueError: A mechanism cannot be registered, or no file does so.
    """
    saved, _ = PreTrainedConfig.get_config_dict(source)
    stacks = [saved, *(part for part in saved.values() if isinstance(part, dict))]
    if not str(saved.get("model_type", "")).startswith(PACKAGE):
        return None
    if lacking(stacks):
        for file in files_of(source, saved):
            load_plugin(file)
    if names := lacking(stacks):
        raise ValueError(f"{source} names {names}, which no file beside its weights registers.")
    own = [plugin for plugin in PLUGINS if plugin.name in named(stacks, plugin.field)]
    return sys.modules.get(own[-1].mechanism.__module__) if own else None


def named(stacks: Iterable[dict[str, Any]], field: str) -> list[str]:
    """The kinds that saved configs name in a field."""
    values = [stack.get(field, []) for stack in stacks]
    return [name for value in values for name in (value if isinstance(value, list) else [value])]


def lacking(stacks: list[dict[str, Any]]) -> list[str]:
    """The kinds that saved configs name, and that nothing has registered."""
    names = [(name, rows) for field, rows in KIND_TABLES.items() for name in dict.fromkeys(named(stacks, field))]
    return [name for name, rows in names if name not in rows]


def files_of(source: str, saved: dict[str, Any]) -> list[Path]:
    """The files that a checkpoint's code imports beside its own; those of the Hub are copied, as transformers does."""
    classes = [str(name) for name in saved.get("auto_map", {}).values()]
    modeling = next((f"{name.partition('.')[0]}.py" for name in classes if name.startswith(IN_CHECKPOINT[0])), None)
    if modeling is None:
        return []
    file = Path(source, modeling)
    if not Path(source).is_dir():
        file = Path(HF_MODULES_CACHE, get_cached_module_file(source, modeling))
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module]
    return [file.with_name(f"{name}.py") for name in dict.fromkeys(names) if not name.startswith(IN_CHECKPOINT)]


def is_checkpoint(source: str) -> bool:
    """Whether a text means a checkpoint, and neither a file nor a module: a folder with a config, or a Hub's name."""
    is_name = re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None and not Path(source).parent.is_dir()
    return is_name or Path(source, "config.json").is_file()
