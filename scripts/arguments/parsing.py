"""Arguments of the scripts: dataclasses filled from the command line, over a recipe in YAML."""

import contextlib
import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser

from trine.configuration.patterns import named_type, suggest
from trine.configuration.plugin_checkpoints import load_checkpoint_plugins
from trine.configuration.plugin_files import load_plugin
from trine.scripts.arguments.optional_packages import NEEDS, require, require_for
from trine.scripts.arguments.recipe_yaml import load_yaml
from trine.scripts.jobs.hub_access import ask_once


RECIPES = Path(__file__).parents[1] / "recipes"
# What a command reports in one line: files and values that cannot be used, configs with a value of the wrong type.
INPUT_ERRORS = (OSError, ValueError, StrictDataclassError)
# Of every argument that names records.
RECORDS_HELP = (
    "Records: .jsonl, .csv (both also .gz), .parquet, .json, folders of them, or a data set, hf:NAME:CONFIG:SPLIT."
)


# Where `parser_of` waits for the parser of a command, which then does not run.
_WANTED: ContextVar[list[HfArgumentParser] | None] = ContextVar("_WANTED", default=None)


@dataclass
class RecipeArguments:
    """The options that every script has."""

    recipe: str | None = field(
        default=None,
        metadata={"help": "YAML file of arguments by name, or the name of a packaged one; the command line wins."},
    )
    plugin: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files (.py), modules or checkpoints that bring attention, positions, feed-forwards or routers."
        },
    )


def parse_arguments(
    types: Sequence[Any],
    argv: Sequence[str] | None = None,
    *,
    command: str,
    description: str | None,
    default_recipe: str | None = None,
) -> tuple[Any, ...]:
    """Fill dataclasses from `argv` (default: the process's) over the recipe that it names; return one object per type.

    In a recipe, a list of `key=value` texts may be written as a mapping.
    Exits with status 2 and a message on an unknown argument or a value of the wrong type, in either place, and on a
    package that is not installed although the command, with these arguments, will import it; with status 1 on a
    checkpoint that is no folder and can be no id of the Hub. From then on an unreachable Hub is asked once.
    """
    options = {
        "prog": f"trine {command}",
        "usage": "%(prog)s [--recipe NAME] [--ARGUMENT VALUE ...]",
        "allow_abbrev": False,
    }
    recipe_type: Any = RecipeArguments
    parser = HfArgumentParser([recipe_type, *types], description=description, **options)
    if (wanted := _WANTED.get()) is not None:
        wanted.append(parser)
        sys.exit()
    argv = list(sys.argv[1:] if argv is None else argv)
    if not {"-h", "--help"} & {*argv}:
        require(command, NEEDS.get(command, ()))
    recipe_parser = HfArgumentParser(recipe_type, add_help=False, **options)
    recipe = recipe_parser.parse_known_args(argv)[0].recipe or default_recipe
    try:
        if recipe is not None:
            argv = _as_argv(read_recipe(recipe), [recipe_type, *types], parser) + argv
        load_plugins(recipe_parser.parse_known_args(argv)[0].plugin)
        _, *filled, unknown = parser.parse_args_into_dataclasses(
            argv, return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, ImportError, OSError) as error:
        parser.error(str(error))
    if unknown:
        parser.error(unknown_name("argument", unknown[0], parser._option_string_actions))
    given = {name: value for part in filled for name, value in vars(part).items()}
    try:
        ask_once({} if command.startswith("study ") else given)  # a study's models are no checkpoints
    except ValueError as error:
        sys.exit(f"trine {command}: {error}")
    require_for(command, given)
    if given.get("trust_remote_code"):
        try:
            load_trusted(given.get("model") or [])
        except (ValueError, ImportError) as error:
            parser.error(str(error))
    return tuple(filled)


def parser_of(*words: str) -> HfArgumentParser:
    """The parser of the sub-command with these first words, with all of its options. Nothing is run."""
    from trine.scripts import cli

    wanted: list[HfArgumentParser] = []
    before = _WANTED.set(wanted)
    try:
        with contextlib.suppress(SystemExit):
            cli.main(words)
    finally:
        _WANTED.reset(before)
    return wanted[0]


def named_plugins(argv: Sequence[str]) -> list[str]:
    """Finds the files and modules of `--plugin`, or else of the recipe, before other arguments are read.

    Raises:
        ValueError: There is no such recipe, or it is not one.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", nargs="+")
    parser.add_argument("--recipe")
    named = parser.parse_known_args(argv)[0]
    plugins = named.plugin or (read_recipe(named.recipe).get("plugin") if named.recipe else None) or []
    return [plugins] if isinstance(plugins, str) else list(plugins)


def load_trusted(models: str | Sequence[str]) -> None:
    """Loads what checkpoints register, whose code may run. What is no checkpoint the command tells of later.

    Raises:
        ValueError: A mechanism cannot be registered, or a file is no Python.
        ImportError: A file has the name of a module that is loaded.
    """
    for model in [models] if isinstance(models, str) else models:
        try:
            load_checkpoint_plugins(model)
        except SyntaxError as error:
            raise ValueError(f"{error.filename}:{error.lineno}: {error.msg}") from error
        except FileNotFoundError as error:  # of a mechanism
            raise ValueError(str(error)) from error
        except OSError:
            continue


def load_plugins(sources: Iterable[str]) -> None:
    """Loads what `--plugin` names, in this order; a second time changes nothing.

    Raises:
        ValueError: A mechanism cannot be registered, or a file is no Python.
        ImportError: A module cannot be found, or cannot be imported.
        FileNotFoundError: A file is not there.
    """
    for source in sources:
        try:
            load_plugin(source)
        except SyntaxError as error:
            raise ValueError(f"{error.filename or source}:{error.lineno}: {error.msg}") from error
        except ModuleNotFoundError as error:
            if error.name != source.partition(".")[0]:
                raise
            raise ImportError(
                f"plugin={source!r} is neither a file (.py) nor a module that can be imported. What has no name "
                "stands before --plugin, which takes all that follows."
            ) from error


def read_recipe(name: str) -> dict[str, Any]:
    """The arguments of a YAML file, or of the packaged recipe of that name.

    Raises:
        ValueError: neither is there, or the file is not a mapping.
    """
    import yaml

    packaged = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
    path = packaged.get(name, Path(name))
    if not path.is_file():
        raise ValueError(f"{unknown_name('recipe', name, packaged)} There is no such file either.")
    try:
        recipe = load_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"The recipe '{path}' is not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"The recipe '{path}' is not YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe '{path}' holds {named_type(recipe)}, not a mapping of arguments to values.")
    return recipe


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> str:
    """The message for a name that is not one of `choices`, with the nearest or with all of them."""
    choices = list(choices)
    hint = suggest(name, choices) or (f" Choose from {choices}." if len(choices) < 20 else " See --help.")
    return f"Unknown {kind} '{name}'.{hint}"


def check_known(arguments: Any, **choices: Iterable[str]) -> None:
    """Raises a `ValueError` for a name in a list of the arguments that is not among its choices."""
    for name, known in choices.items():
        unknown = [value for value in getattr(arguments, name) if value not in known]
        if unknown:
            raise ValueError(f"{name}={unknown} are not among {list(known)}.")


def _as_argv(recipe: dict[str, Any], types: Sequence[Any], parser: HfArgumentParser) -> list[str]:
    """A recipe as texts of a command line, so that both are read by the same rules.

    Raises:
        ValueError: An unknown key, or a value of a shape that its argument does not take.
    """
    known = {item.name: get_type_hints(type_)[item.name] for type_ in types for item in fields(type_) if item.init}
    argv = []
    for name, value in recipe.items():
        if name not in known:
            raise ValueError(unknown_name("recipe key", str(name), known))
        if isinstance(value, dict) and get_origin(known[name]) is list:
            value = [f"{key}={json.dumps(item)}" for key, item in value.items()]
        if isinstance(value, list):
            if parser._option_string_actions[f"--{name}"].nargs not in ("+", "*"):
                raise ValueError(f"recipe key '{name}' takes one value, not the list {value}.")
            if strange := [item for item in value if item is None or isinstance(item, (list, dict))]:
                raise ValueError(f"recipe key '{name}' is a list of texts or numbers, and holds {strange[0]!r}.")
            argv += [f"--{name}", *map(_as_text, value)]
        elif isinstance(value, dict) and known[name] in (bool, int, float, str):
            raise ValueError(f"recipe key '{name}' takes one value, not the mapping {value}.")
        elif value is not None:  # an empty value is as if left out
            words = {"on": "true", "off": "false"} if known[name] is bool else {}
            text = _as_text(value)
            argv.append(f"--{name}={words.get(text.lower(), text)}")
    return argv


def _as_text(value: Any) -> str:
    """A value as the command line has it."""
    return json.dumps(value) if isinstance(value, (bool, dict)) else str(value)
