"""The `trine` command: every script of this folder is a sub-command, and every script of a group one of the group.

Nothing of the package is imported before a sub-command is known: help and version must not wait for torch.
"""

import ast
import contextlib
import importlib
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path


# Sub-commands with other names than their scripts: beside a script that is run by its path, a file `inspect.py` would
# take the place of the standard library's module.
RENAMED = {"inspect_model": "inspect"}
# Groups of sub-commands, as in `trine benchmark models`, and their folders.
GROUPS = {"benchmark": "benchmarks", "data": "datasets", "study": "studies"}
GREETING = """\
Trine {version}: one transformer family whose every part can be chosen, as ordinary Hugging Face models.

  trine demo                       train a small model here in minutes, look at it, load it anywhere
  trine convert NAME FOLDER        begin with a trained one: BERT, GPT-2, Llama, Mixtral, T5, ViT, CLIP and others
  trine new attention my_idea.py   write a mechanism of your own; trine check my_idea.py tests it

All {count} sub-commands: trine --help. Completion of them by the Tab key: trine completion --help."""
INTERRUPTED = 130  # the exit status of a program that Ctrl-C has ended
UNREAD = 141  # and of one whose output nobody reads any more


def find_scripts() -> dict[str, str]:
    """The module of each sub-command, by its name, relative to this package; none is imported to find out.

    A script is a module with a `main`, in this folder or in that of a group, whose name comes first.
    """
    here, scripts = Path(__file__).parent, {}
    for group, folder in {"": "", **GROUPS}.items():
        for file in sorted((here / folder).glob("*.py")):
            if "\ndef main(" in file.read_text(encoding="utf-8") and file.stem != "cli":
                name = RENAMED.get(file.stem, file.stem.replace("_", "-"))
                scripts[f"{group} {name}".strip()] = f"{folder}.{file.stem}".strip(".")
    return scripts


def summary_of(module: str) -> str:
    """The first line of the docstring of a script."""
    file = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the script that the first argument names, or the first two, with the others; return its exit status."""
    try:
        status = run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:  # Ctrl-C before, or without, a command's own way to stop
        return INTERRUPTED
    except BrokenPipeError:  # who reads the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tells of it when it ends
        return UNREAD


def run(arguments: list[str]) -> int | None:
    """Does what `main` does, but for what may end it early."""
    scripts = find_scripts()
    length = 2 if arguments and arguments[0] in GROUPS else 1
    command = " ".join(arguments[:length])
    if not command:
        print(GREETING.format(version=_version(), count=len(scripts)))
        return 0
    if command == "--version":
        print(_version())
        return 0
    if command.split()[-1] in ("-h", "--help") or command in GROUPS:
        group = command.split()[0] if command.split()[0] in GROUPS else ""
        print(_help({name: module for name, module in scripts.items() if name.startswith(f"{group} ".lstrip())}))
        return 0
    if command not in scripts:
        from trine.scripts.arguments.parsing import unknown_name

        print(f"trine: {unknown_name('sub-command', command, scripts)}", file=sys.stderr)
        return 2
    if any(argument.partition("=")[0] in ("--plugin", "--recipe") for argument in arguments):
        load_plugins_of(arguments)
    return importlib.import_module(f"trine.scripts.{scripts[command]}").main(arguments[length:])


def load_plugins_of(arguments: Sequence[str]) -> None:
    """Loads what `--plugin` or a recipe names before the script, which may list all mechanisms. It tells of errors."""
    from trine.scripts.arguments.parsing import load_plugins, named_plugins

    with contextlib.suppress(ValueError, ImportError, OSError):
        load_plugins(named_plugins(arguments))


def _version() -> str:
    return runpy.run_path(str(Path(__file__).parents[1] / "_version.py"))["__version__"]


def _help(scripts: dict[str, str]) -> str:
    width = max(map(len, scripts))
    lines = [f"  {name:{width}}  {summary_of(module)}" for name, module in scripts.items()]
    usage = "usage: trine SUB-COMMAND [--recipe NAME] [--ARGUMENT VALUE ...]"
    return "\n".join([usage, "", *lines, "", "trine SUB-COMMAND --help tells its arguments."])


if __name__ == "__main__":
    sys.exit(main())
