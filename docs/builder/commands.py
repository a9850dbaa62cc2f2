"""The options of every command, read from its parser when the site is built."""

import inspect
import re
from argparse import Action, ArgumentParser
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from tables import code, table
from transformers import Seq2SeqTrainingArguments

from trine.conversion import LIFTS
from trine.scripts import cli
from trine.scripts.arguments.parsing import parser_of


TRAINING = {field.name: field for field in fields(Seq2SeqTrainingArguments)}


def command_sections() -> str:
    """A section for each sub-command: what it does, its own options, and which defaults of training it changes."""
    return "\n".join(section for name in cli.find_scripts() for section in sections_of(name))


def sections_of(name: str) -> Iterator[str]:
    """The sections of one sub-command."""
    parser = parser_of(*name.split())
    yield f"## trine {name}\n\n{one_line(parser.description)}\n"
    yield options_of(parser)
    if name == "lift":
        for kind, lift in LIFTS.items():
            summary = (inspect.getdoc(lift) or "").partition("\n\n")[0]
            yield f"### --to {kind}\n\n{one_line(summary)}\n"
            yield options_of(parser_of(name, "--to", kind), without=parser)


def options_of(parser: ArgumentParser, without: ArgumentParser | None = None) -> str:
    """The options of a parser, as a table, but for those of another; those of all training are summed up."""
    known = {"help", *(action.dest for action in without._actions)} if without else {"help"}
    actions = [action for action in parser._actions if action.option_strings and action.dest not in known]
    actions = [action for action in actions if not action.option_strings[0].startswith("--no_")]
    inherited = [action for action in actions if is_inherited(action)]
    own = [action for action in actions if action not in inherited]
    rows = ((code(action.option_strings[0]), default_of(action), one_line(action.help)) for action in own)
    lines = [table(("option", "default", "what"), rows)]
    changed = [action for action in inherited if action.default not in (None, usual(action.dest))]
    if inherited:
        lines.append("Every argument of transformers' `TrainingArguments` is an option, too.")
    if changed:
        values = ", ".join(f"`{action.dest}` {action.default!r}" for action in changed)
        lines.append(f"Other defaults here: {values}.\n")
    return "\n".join(lines)


def is_inherited(action: Action) -> bool:
    """Whether an option is one of `TrainingArguments`, with the same words."""
    field = TRAINING.get(action.dest)
    return field is not None and one_line(action.help) == one_line(field.metadata.get("help"))


def usual(name: str) -> Any:
    """The default of a field of `TrainingArguments`."""
    field = TRAINING[name]
    return field.default_factory() if callable(field.default_factory) else field.default


def default_of(action: Action) -> str:
    """The default of an option, for the table."""
    if action.required:
        return "needed"
    return "" if action.default in (None, [], "") else code(action.default)


def one_line(text: str | None) -> str:
    """A text on one line, safe in Markdown."""
    return re.sub(r"\s+", " ", text or "").replace("%%", "%").replace("<", "&lt;")
