"""What users lean on, each as a line of text: public names, fields of configs, options of commands, names of weights.

`make surface` writes them to `tests/surface.json`; `tests/test_surface.py` compares.
"""

import dataclasses
import inspect
import json
import re
import sys
from argparse import Action
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from commands import is_inherited, parser_of, usual
from public_names import rooms
from support.bundles import HEAD_CONFIGS
from support.captioners import caption_config
from support.duals import dual_config
from support.tiny import SPARSE, tiny_config
from transformers import PreTrainedConfig, PreTrainedModel

import trine
from trine.configuration.kinds import ATTENTION_KINDS, POSITION_KINDS, ROUTER_KINDS
from trine.conversion.lifts.table import LIFTS
from trine.scripts.cli import find_scripts


FILE = Path(__file__).parents[1] / "surface.json"
CONFIGS = tuple(config for config, _, _ in (*trine.FAMILIES, *trine.COMPOSED))
OF_MODELS = ("forward", "from_preset")  # what users call by name; the rest is transformers' own or the inside of ours
Lines = dict[str, str]


def text_of(value: Any) -> str:
    """A default or an annotation, without what differs from one run or version of Python to the next."""
    if value is inspect.Parameter.empty or isinstance(value, str):
        return repr(value) if isinstance(value, str) else ""
    if isinstance(value, type) or callable(value):
        return inspect.formatannotation(value) if isinstance(value, type) else getattr(value, "__name__", str(value))
    return str(value).replace("typing.", "")


def signature_of(function: Callable) -> str:
    parts, bare = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not bare:
            parts.append("*")
        bare = bare or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        annotation = "" if parameter.annotation is parameter.empty else f": {annotation_of(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {text_of(parameter.default)}"
        parts.append(f"{stars}{parameter.name}{annotation}{default}")
    return f"({', '.join(parts)})"


def annotation_of(annotation: Any) -> str:
    """A type without the modules of its parts, which may move."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\*<class '(.*?)'>", r"Unpack[\1]", text)
    return re.sub(r"\b(\w+\.)+(?=\w)", "", text)


def public_names() -> Lines:
    """Every name of `trine` and of its rooms' `__all__`, and the methods that Trine gives to a class."""
    lines = {}
    for module in (trine, *rooms().values()):
        for name in getattr(module, "__all__", ()):
            value, full = getattr(module, name), f"{module.__name__}.{name}"
            lines |= lines_of_class(full, value) if isinstance(value, type) else {full: kind_or_signature(value)}
    return lines


def signature_of_class(value: type) -> str:
    """As `signature_of`; "" for the errors, which Python's own class makes and whose signature cannot be inspected."""
    return "" if issubclass(value, Exception) and "__init__" not in vars(value) else signature_of(value)


def kind_or_signature(value: Any) -> str:
    return signature_of(value) if callable(value) else type(value).__name__


def lines_of_class(full: str, value: type) -> Lines:
    """The class, and the methods that Trine gives it: of models and configs those of `OF_MODELS`."""
    is_transformers = issubclass(value, (PreTrainedModel, PreTrainedConfig))
    # The fields of a config have a section of their own.
    lines = {full: "a config" if issubclass(value, PreTrainedConfig) else f"class{signature_of_class(value)}"}
    for owner in value.__mro__:
        for name, member in vars(owner).items() if owner.__module__.startswith("trine.") else ():
            function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            if (
                name.startswith("_")
                or f"{full}.{name}" in lines
                or (is_transformers and not name.startswith(OF_MODELS))
            ):
                continue
            if isinstance(member, property):
                lines[f"{full}.{name}"] = "property"
            elif inspect.isfunction(function):
                lines[f"{full}.{name}"] = signature_of(function)
    return lines


def config_fields() -> Lines:
    """Type and default of every field that Trine has, or gives another default than transformers."""
    lines = {}
    for config in CONFIGS:
        inherited = {field.name: field.default for field in dataclasses.fields(PreTrainedConfig)}
        for field in dataclasses.fields(config):
            if field.name not in inherited or inherited[field.name] != field.default:
                factory = field.default_factory
                default = field.default if factory is dataclasses.MISSING else factory()
                lines[f"{config.__name__}.{field.name}"] = f"{annotation_of(field.type)} = {default!r}"
    return lines


def command_options() -> Lines:
    """Type, choices and default of every option of every command, but for what it takes from transformers as it is."""
    words = [name.split() for name in find_scripts()] + [["lift", "--to", kind] for kind in LIFTS]
    lines = {}
    for command in words:
        name, actions = f"trine {' '.join(command)}", parser_of(*command)._actions
        lines[name] = "a command"
        lines |= {f"{name} {' '.join(a.option_strings) or a.dest}": option_of(a) for a in actions if is_own(a)}
    return lines


def is_own(action: Action) -> bool:
    if action.dest == "help" or action.option_strings[:1] and action.option_strings[0].startswith("--no_"):
        return False
    return not (is_inherited(action) and action.default in (None, usual(action.dest)))


def option_of(action: Action) -> str:
    parts = [getattr(action.type, "__name__", "") if action.type else "", "list" if action.nargs in ("+", "*") else ""]
    parts += [f"one of {list(action.choices)}" if action.choices else ""]
    parts += ["needed" if action.required else f"default {action.default!r}"]
    return ", ".join(part for part in parts if part)


def models() -> Iterator[tuple[str, type, PreTrainedConfig]]:
    """A name, a class and a config with which every head, kind and option that has weights occurs."""
    for config, base, heads in trine.FAMILIES:
        for head in dict.fromkeys((base, *heads.values())):
            yield head.__name__, head, tiny_config() if head is trine.TrineForCausalLM else HEAD_CONFIGS[config]()
    dual = {"contrastive_loss": "sigmoid", "vision_pooling": "attention", "text_projection": "affine"}
    yield "TrineDualEncoder", trine.TrineDualEncoder, dual_config(**dual)
    yield "TrineForImageTextToText", trine.TrineForImageTextToText, caption_config()
    decoders = {f"attention {kind}": {"attention_types": kind, "qk_norm": True} for kind in ATTENTION_KINDS}
    decoders |= {f"position {kind}": {"position_type": kind} for kind in POSITION_KINDS}
    decoders |= {f"router {kind}": {"router_type": kind, **SPARSE} for kind in ROUTER_KINDS}
    biases = dict.fromkeys(("attention_bias", "mlp_bias", "embedding_norm"), True)
    decoders["layernorm and biases"] = {"norm_type": "layernorm", "gated_mlp": False, **biases}
    for name, fields in decoders.items():
        yield name, trine.TrineModel, tiny_config(num_hidden_layers=1, **fields)


def state_dict_keys() -> Lines:
    """Name and shape of every weight and buffer; the first layer stands for all."""
    lines = {}
    for name, model_class, config in models():
        with torch.device("meta"):
            tensors = model_class(config).state_dict()
        shapes = {key: "x".join(map(str, tensor.shape)) for key, tensor in tensors.items()}
        lines |= {f"{name}: {key}": shape for key, shape in shapes.items() if "layers.1." not in key}
    return lines


SECTIONS: dict[str, Callable[[], Lines]] = {
    "public names": public_names,
    "config fields": config_fields,
    "command options": command_options,
    "state-dict keys": state_dict_keys,
}


def write() -> None:
    found = {name: section() for name, section in SECTIONS.items()}
    FILE.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(write())
