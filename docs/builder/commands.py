"""The options of every command, read from its parser when the site is built."""

import contextlib
import io
import re
from argparse import Action, ArgumentParser
from dataclasses import fields
from typing import Any
from unittest.mock import patch

from tables import code, table
from transformers import Seq2SeqTrainingArguments

from trine.scripts import arguments, cli


TRAINING = {field.name: field for field in fields(Seq2SeqTrainingArguments)}


def parser_of(command: str) -> ArgumentParser:
    """The parser of a sub-command, with all of its options. Nothing is run."""
    made = []

    class Recorded(arguments.HfArgumentParser):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            made.append(self)

    silence = contextlib.redirect_stdout(io.StringIO())
    with patch.object(arguments, "HfArgumentParser", Recorded), silence, contextlib.suppress(SystemExit):
        cli.main([command, "--help"])
    return made[0]


def command_sections() -> str:
    """A section for each sub-command: what it does, its own options, and which defaults of training it changes."""
    return "\n".join(command_section(name, parser_of(name)) for name in cli.find_scripts())


def command_section(name: str, parser: ArgumentParser) -> str:
    actions = [action for action in parser._actions if action.option_strings and action.dest != "help"]
    actions = [action for action in actions if not action.option_strings[0].startswith("--no_")]
    inherited = [action for action in actions if is_inherited(action)]
    own = [action for action in actions if action not in inherited]
    rows = ((code(first(action)), default_of(action), one_line(action.help)) for action in own)
    lines = [f"## trine {name}\n", f"{one_line(parser.description)}\n", table(("option", "default", "what"), rows)]
    if inherited:
        changed = {action.dest: action.default for action in inherited if action.default != usual(action.dest)}
        values = ", ".join(f"`{key}` {value!r}" for key, value in changed.items())
        lines.append("Every argument of transformers' `TrainingArguments` is an option, too.")
        lines.append(f"Other defaults here: {values}.\n" if changed else "")
    return "\n".join(lines)


def is_inherited(action: Action) -> bool:
    """Whether an option is that of `TrainingArguments`, with the same words."""
    field = TRAINING.get(action.dest)
    return field is not None and one_line(action.help) == one_line(field.metadata.get("help"))


def usual(name: str) -> Any:
    field = TRAINING[name]
    return field.default_factory() if callable(field.default_factory) else field.default


def first(action: Action) -> str:
    return max(action.option_strings, key=len) if "_" in "".join(action.option_strings) else action.option_strings[0]


def default_of(action: Action) -> str:
    if action.required:
        return "needed"
    return "" if action.default in (None, [], "") else code(action.default)


def one_line(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("%%", "%").replace("<", "&lt;")
