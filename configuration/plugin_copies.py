"""Compares the plugins that are loaded with the files of a folder that is loaded from, or saved into."""

from pathlib import Path
from typing import Any

from transformers.utils import logging

from .atomic_saving import HIDDEN
from .bundle_plugins import plugins_in_use
from .plugin_files import IN_CHECKPOINT, files_with, imports_from_package, source_of, to_checkpoint, tree_of
from .plugin_rows import PLUGINS, Plugin


logger = logging.get_logger(__name__)
OTHER_CODE = (
    "%s=%r: the code of %s is run, as it was when it was loaded, and not that of %s, which differs. For the code of "
    "the checkpoint, call trine.load_plugin(%r) in a fresh process, before anything else registers that name."
)
OVERWRITTEN = (
    "{path} would be overwritten by the copy for the checkpoint, which imports otherwise: save into another folder "
    "than that of the plugin."
)


def warn_of_other_code(config: Any, folder: Path) -> None:
    """Warns of each mechanism of a config whose file in a checkpoint's folder is another than the one that is run."""
    modeling = f"modeling_{config.model_type}"
    for plugin in plugins_in_use(config):
        source = source_of(plugin.mechanism)
        try:
            sources = [] if source is None else files_with(source) if plugin.shareable else [source]
            texts = {path: to_checkpoint(path, modeling) for path in sources}
        except (OSError, ValueError, SyntaxError):  # it was removed or broken since: it cannot be compared
            continue
        pairs = [(path, folder / path.name) for path in sources if (folder / path.name).is_file()]
        differ = [pair for pair in pairs if texts[pair[0]] != as_packed(pair[1], modeling)]
        if source is None or not (folder / source.name).is_file():
            differ = [(source or plugin.mechanism, file) for file in files_that_register(plugin, folder)]
        for ours, theirs in differ:
            logger.warning(OTHER_CODE, plugin.field, plugin.name, ours, theirs, str(theirs))


def as_packed(file: Path, modeling: str) -> str | None:
    """The text of a checkpoint's file as it is now; None if it is no Python."""
    try:
        return to_checkpoint(file, modeling, file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return None


def files_that_register(plugin: Plugin, folder: Path) -> list[Path]:
    """The files of a folder that seem to register a mechanism, whatever they are called."""
    files = [file for file in sorted(folder.glob("*.py")) if not file.name.startswith(IN_CHECKPOINT)]
    texts = {file: file.read_text(encoding="utf-8", errors="replace") for file in files}
    quoted = (f'"{plugin.name}"', f"'{plugin.name}'")
    return [file for file in files if "register_" in texts[file] and any(name in texts[file] for name in quoted)]


def check_not_own(config: Any, folder: Path, texts: dict[str, str]) -> None:
    """Raises a `ValueError` if files that are saved would take the place of a plugin's source.

    A plugin out of a checkpoint may be saved there again, as the text that it has.
    """
    while folder.name.startswith(HIDDEN):
        folder = folder.parent
    sources = [source for plugin in plugins_in_use(config) if (source := source_of(plugin.mechanism)) is not None]
    for path in (path for source in sources for path in files_with(source)):
        own = path.is_file() and path.resolve() == (folder / path.name).resolve()
        if own and texts[path.name] != path.read_text(encoding="utf-8"):
            raise ValueError(OVERWRITTEN.format(path=path))


def check_apart(folder: Path) -> None:
    """Raises a `ValueError` if a model that is saved to a folder later would overwrite the source of a plugin."""
    for plugin in PLUGINS:
        path = source_of(plugin.mechanism)
        if path is None or not plugin.shareable or path.resolve().parent != folder.resolve():
            continue
        if any(node.level == 0 for node in imports_from_package(tree_of(path))):  # unlike in a checkpoint
            raise ValueError(OVERWRITTEN.format(path=path))
