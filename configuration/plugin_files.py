"""The files of mechanisms of somebody's own: how a process loads them, and how a checkpoint takes them along.

In a checkpoint they stand beside `modeling_trine.py` under their own names, and import from it what they imported from
the package.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from keyword import iskeyword
from pathlib import Path
from types import ModuleType

from transformers.utils import logging


logger = logging.get_logger(__name__)
PACKAGE = __name__.split(".")[0]
ALLOWED = ("torch", "transformers", PACKAGE)
GROUP = f"{PACKAGE}.plugins"  # of the entry points of packages that bring mechanisms
IN_CHECKPOINT = ("modeling_", "configuration_")  # how the files begin that hold the package's part there
SOURCES: dict[Path, str] = {}  # the texts that `load_plugin` ran; files may be edited afterwards


def load_plugin(source: str | Path) -> ModuleType:
    """Loads a file that registers mechanisms, one's own or one out of a checkpoint's folder.

    Args:
        source: A `.py` file; the name of a module that can be imported; or a checkpoint whose code is trusted, as a
            folder or by its name on the Hub: its files are loaded that register what its config names, unless that
            is known. A file is loaded once; what stands beside it can be imported by it.

    Returns:
        The module; of a checkpoint that of the last of its mechanisms.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: There is no such checkpoint.
        ImportError: There is no such module, or another one has the name of the file.
        ValueError: The name of the file is none of a module, which checkpoints could import; or a checkpoint has no
            mechanism of somebody's own.
        SyntaxError: The file cannot be read as Python.
    """
    if not str(source).endswith(".py"):
        from .plugin_checkpoints import is_checkpoint, load_checkpoint_plugins  # which read this module

        if not is_checkpoint(str(source)):
            return import_module(str(source))
        found = load_checkpoint_plugins(str(source))
        if found is None:
            raise ValueError(f"{source} has no mechanism of somebody's own: it needs no plugin.")
        return found
    from .plugin_rows import PLUGINS  # which reads this module

    file, before = Path(source).resolve(), list(PLUGINS)
    was_loaded = file.stem in sys.modules
    module = load_file(file, source)
    if not was_loaded and before == PLUGINS:
        logger.warning(f"{source} registers nothing: write `@register_attention(NAME)` or the like above a class.")
    return module


def load_file(file: Path, source: str | Path) -> ModuleType:
    """Loads the file that somebody calls `source`, or one beside it that it imports, unless that was done."""
    if not file.is_file():
        raise FileNotFoundError(f"{source} is not a file.")
    check_file_name(file)
    loaded = sys.modules.get(file.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(file):
            return loaded
        raise ImportError(f"{source} cannot be loaded as {file.stem!r}: a module of that name is loaded. Rename it.")
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None
    module = module_from_spec(spec)
    SOURCES[file] = file.read_text(encoding="utf-8")
    code = compile(without_relative_imports(file), str(file), "exec")
    sys.path.append(str(file.parent))
    sys.modules[file.stem] = module
    try:
        exec(code, vars(module))
    except BaseException:
        del sys.modules[file.stem], SOURCES[file]
        raise
    finally:
        sys.path.remove(str(file.parent))
    return module


def check_file_name(file: Path) -> None:
    """Raises a `ValueError` for a file that cannot be imported by its name, as a checkpoint's code does."""
    if not file.stem.isidentifier() or iskeyword(file.stem):
        name = re.sub(r"\W", "_", file.stem)
        name = f"{name}_plugin" if iskeyword(name) else name if name.isidentifier() else f"plugin_{name}"
        raise ValueError(f"{file} has a name that no code can import, and a checkpoint must: call it {name}.py.")


def text_of(path: Path) -> str:
    """The text of a plugin's file: of one that `load_plugin` ran, as it was then."""
    text = SOURCES.get(path.resolve())
    return path.read_text(encoding="utf-8") if text is None else text


def tree_of(path: Path) -> ast.Module:
    """The statements of a plugin's file, which a `SyntaxError` names."""
    return ast.parse(text_of(path), str(path))


def without_relative_imports(file: Path) -> ast.Module:
    """The statements of a file that is in no package: those beside it are loaded first, and imported by their names.

    A file out of a checkpoint imports from the package again.
    """
    tree = tree_of(file)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and is_from_package(node):
            node.module, node.level = PACKAGE, 0
        elif isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            other = file.with_name(f"{node.module}.py")
            load_file(other.resolve(), other)
            node.level = 0
    return tree


def load_entry_points() -> None:
    """Loads what installed packages register. One that fails is told of, and does not keep the others from working."""
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            logger.warning(f"The plugin {point.name!r} ({point.value}) cannot be loaded: {error!r}")


def source_of(mechanism: type) -> Path | None:
    """The file of a class, or None for one that was typed into a session, or stands in a program that is run."""
    module = sys.modules.get(mechanism.__module__)
    file = getattr(module, "__file__", None)
    return Path(file) if file is not None and mechanism.__module__ != "__main__" else None


def check_imports(mechanism: type) -> None:
    """Raises a `ValueError` if the file of a class imports what a checkpoint could not take along.

    A class without a file passes: saving says that it stays behind.
    """
    file = source_of(mechanism)
    for path in files_with(file) if file is not None else ():
        for node, module in imports_of(path):
            check_import(path, node, module)


def check_import(path: Path, node: ast.Import | ast.ImportFrom, module: str) -> None:
    """Raises a `ValueError` for an import that a checkpoint could not take along."""
    top = module.split(".")[0]
    where = f"{path}, line {node.lineno}: `{ast.unparse(node)}`"
    advice = "Or register the mechanism with shareable=False: checkpoints are then saved without its code."
    if top not in ALLOWED and top not in sys.stdlib_module_names:
        raise ValueError(
            f"{where} cannot go with a checkpoint, whose code may import {', '.join(ALLOWED)} and the standard "
            f"library. {advice}"
        )
    if top == PACKAGE:
        public = import_module(PACKAGE).__all__
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        if module != PACKAGE or not names or not set(names) <= set(public):
            raise ValueError(
                f"{where} cannot go with a checkpoint: write `from {PACKAGE} import NAME`, with names that "
                f"{PACKAGE} itself has. {advice}"
            )


def is_from_package(node: ast.AST) -> bool:
    """Whether a statement imports the package's names, also as it does so in a checkpoint."""
    if not isinstance(node, ast.ImportFrom):
        return False
    return node.module == PACKAGE if node.level == 0 else str(node.module).startswith(IN_CHECKPOINT)


def imports_from_package(tree: ast.Module) -> list[ast.ImportFrom]:
    """The statements of a file that import from the package."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and is_from_package(node)]


def imports_of(path: Path) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Each import of a file that is no relative one, with the module that it names."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node, str(node.module)


def files_with(path: Path) -> list[Path]:
    """A file and those beside it that it imports by `from .name import ...`.

    Raises:
        ValueError: A relative import of another form.
    """
    found, work = [], [path]
    while work:
        file = work.pop()
        if file in found:
            continue
        if file.name.startswith(IN_CHECKPOINT):
            raise ValueError(f"{file} cannot go with a checkpoint, whose own files are called so: rename it.")
        found.append(file)
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.ImportFrom) and node.level and not is_from_package(node):
                other = file.with_name(f"{node.module}.py")
                if node.level > 1 or not other.is_file():
                    raise ValueError(
                        f"{file}, line {node.lineno}: `{ast.unparse(node)}` cannot go with a checkpoint, where all "
                        "files stand in one folder: write `from .name import ...` of a file beside this one."
                    )
                work.append(other)
    return found


def to_checkpoint(path: Path, modeling: str, text: str | None = None) -> str:
    """The text of a file as a checkpoint has it: imports from the package are those from the file `modeling`.

    By default it is the text that was loaded.
    """
    text = text_of(path) if text is None else text
    lines = text.split("\n")
    for node in imports_from_package(ast.parse(text, str(path))):
        line, before = lines[node.lineno - 1], f"from {'.' * node.level}{node.module} import"
        lines[node.lineno - 1] = line.replace(before, f"from .{modeling} import", 1)
    return "\n".join(lines)


def names_from_package(paths: Iterable[Path]) -> dict[str, str]:
    """Each name that files import from the package, with the module that defines it."""
    aliases = [alias.name for path in paths for node in imports_from_package(tree_of(path)) for alias in node.names]
    return {name: getattr(import_module(PACKAGE), name).__module__ for name in sorted(set(aliases))}
