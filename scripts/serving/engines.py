"""The engines of `trine serve`: its own server, and vLLM's."""

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence

from trine.configuration.patterns import check_choice
from trine.scripts.arguments.parsing import read_recipe
from trine.scripts.arguments.serving import ENGINES, OWN_ENGINE
from trine.scripts.serving.vllm_engine import serve_by_vllm


OTHERS: dict[str, Callable[[Sequence[str]], None]] = {"vllm": serve_by_vllm}


def find_engine(argv: Sequence[str]) -> str:
    """The engine that the command line names, or else its recipe, before other options are read.

    It exits with status 2 and a message if there is no such engine or recipe.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--engine")
    parser.add_argument("--recipe")
    named = parser.parse_known_args(argv)[0]
    try:
        engine = named.engine or (read_recipe(named.recipe).get("engine") if named.recipe else None) or OWN_ENGINE
        check_choice("engine", engine, ENGINES)
    except (OSError, ValueError) as error:
        print(f"trine serve: {error}", file=sys.stderr)
        sys.exit(2)
    return engine
