"""Print a script with which bash, zsh or fish complete sub-commands, options, recipes, presets and files."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trine.configuration.presets import PRESETS, SEQ2SEQ_PRESETS
from trine.scripts.arguments.parsing import RECIPES, parse_arguments, parser_of, unknown_name
from trine.scripts.cli import GROUPS, find_scripts, summary_of


SHELLS = ("bash", "zsh", "fish")


@dataclass
class CompletionArguments:
    """Options of `trine completion`."""

    shell: str = field(metadata={"help": f"One of {', '.join(SHELLS)}; it may stand first, without its name."})


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine completion` with these arguments, by default the process's."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--shell", *argv]
    (arguments,) = parse_arguments([CompletionArguments], argv, command="completion", description=__doc__)
    if arguments.shell not in SHELLS:
        sys.exit(f"trine completion: {unknown_name('shell', arguments.shell, SHELLS)}")
    import shtab

    print(shtab.complete(whole_parser(), arguments.shell))


def whole_parser() -> ArgumentParser:
    """One parser of all sub-commands and their options, as completion needs it: it parses nothing."""
    root = ArgumentParser("trine")
    places = {"": root.add_subparsers()}
    for group in GROUPS:
        places[group] = places[""].add_parser(group, help=f"Sub-commands: trine {group} --help").add_subparsers()
    for name, module in find_scripts().items():
        group, _, last = name.rpartition(" ")
        parser = parser_of(*name.split())
        for action in parser._actions:
            _complete_values(action)
        places[group].add_parser(last, parents=[parser], add_help=False, help=summary_of(module))
    return root


def _complete_values(action: Any) -> None:
    """Says what an option's values are: recipes and presets by name, files for every other text."""
    import shtab

    names = {
        "recipe": sorted(path.stem for path in RECIPES.glob("*.yaml")),
        "preset": [*PRESETS, *SEQ2SEQ_PRESETS],
    }
    if action.dest in names:
        action.choices = names[action.dest]
    elif action.nargs != 0 and action.choices is None and action.type in (None, str):
        action.complete = shtab.FILE


if __name__ == "__main__":
    main()
