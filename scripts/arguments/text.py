"""The option `--text`, by which every command that reads a text takes it, and standard input in its place."""

import sys
from dataclasses import field
from typing import Any


def text_field(help: str, **options: Any) -> Any:
    """A field `text`, which may be written `--prompt`, too; by default an empty list.

    Args:
        help: What the texts are. That standard input is read without them is added.
    """
    options = options or {"default_factory": list}
    return field(**options, metadata={"help": f"{help} By default standard input is read.", "aliases": ["--prompt"]})


def read_standard_input(what: str) -> str:
    """All of standard input without the last line's end; someone who types is told that `what` is waited for."""
    if sys.stdin.isatty():
        print(f"Type {what} and end it with Ctrl-D:", file=sys.stderr)
    return sys.stdin.read().removesuffix("\n")
