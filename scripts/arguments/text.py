"""The option `--text`, the same for every command that reads a text, or standard input without it."""

import sys
from dataclasses import field
from typing import Any


def text_field(help: str, **options: Any) -> Any:
    """A field `text`, which may be written `--prompt`, too; by default an empty list.

    Args:
        help: Description of the texts; a sentence about standard input is added.
    """
    options = options or {"default_factory": list}
    return field(**options, metadata={"help": f"{help} By default standard input is read.", "aliases": ["--prompt"]})


def read_standard_input(what: str) -> str:
    """Reads standard input, without the last line's end; on a terminal, asks for `what`."""
    if sys.stdin.isatty():
        print(f"Type {what} and end it with Ctrl-D:", file=sys.stderr)
    return sys.stdin.read().removesuffix("\n")
