"""The `trine` command: every script of this folder is a sub-command, most by their names with hyphens."""

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from trine._version import __version__


# Sub-commands with other names than their scripts: beside a script that is run by its path, a file `inspect.py` would
# take the place of the standard library's module.
RENAMED = {"inspect_model": "inspect"}
INTERRUPTED = 130  # the exit status of a program that Ctrl-C has ended


def find_scripts() -> dict[str, str]:
    """The first line of the docstring of each script, by the name of its sub-command.

    A script is a module of this folder, other than this one, that defines `main`. None is imported to find out.
    """
    scripts = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        module = ast.parse(file.read_text(encoding="utf-8"))
        names = [node.name for node in module.body if isinstance(node, ast.FunctionDef)]
        if "main" in names and file.stem != "cli":
            command = RENAMED.get(file.stem, file.stem.replace("_", "-"))
            scripts[command] = (ast.get_docstring(module) or "").partition("\n")[0]
    return scripts


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the script that the first argument names with the other arguments; return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    scripts = find_scripts()
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print(_help(scripts))
        return 0
    if command == "--version":
        print(__version__)
        return 0
    if command not in scripts:
        from trine.scripts.arguments import unknown_name

        print(f"trine: {unknown_name('sub-command', command, scripts)}", file=sys.stderr)
        return 2
    script = {name: stem for stem, name in RENAMED.items()}.get(command, command.replace("-", "_"))
    try:
        return importlib.import_module(f"trine.scripts.{script}").main(arguments[1:])
    except KeyboardInterrupt:  # Ctrl-C before, or without, a command's own way to stop
        return INTERRUPTED


def _help(scripts: dict[str, str]) -> str:
    width = max(map(len, scripts))
    lines = [f"  {name:{width}}  {summary}" for name, summary in scripts.items()]
    usage = "usage: trine SUB-COMMAND [--recipe NAME] [--ARGUMENT VALUE ...]"
    return "\n".join([usage, "", *lines, "", "trine SUB-COMMAND --help tells its arguments."])


if __name__ == "__main__":
    sys.exit(main())
