"""Reads YAML by the rules of YAML 1.2, in which `no` and `off` are words."""

import re
from typing import Any


# What a word without quotes is, and the characters that such a word begins with. PyYAML's own rules are those of 1.1,
# in which `no` is false, 017 is fifteen, 12:30 is 750 and 1e-3 is a text.
_KINDS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
}


def load_yaml(text: str) -> Any:
    """The value that the text writes. Raises a `yaml.YAMLError` if it is not YAML."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict = {}

    for kind, (pattern, first) in _KINDS.items():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"), [*first])
    return yaml.load(text, Loader)
