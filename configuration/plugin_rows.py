"""Checks a mechanism that a user registers, and makes its row.

None of it goes with a checkpoint.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any, NamedTuple

from .attention_costs import full_pairs, full_span, state_products
from .choices import Choices
from .kind_fields import KindField
from .kind_rows import AboutAttention, AboutFeedForward, AboutPosition, AboutRouter, Kind
from .kinds import KIND_TABLES
from .patterns import check_choice, suggest
from .plugin_files import PACKAGE, check_imports, source_of
from .validation import KIND_RULES


class Plugin(NamedTuple):
    """A mechanism that was registered: the field that names it, its name, its class, and whether it may be shared."""

    field: str
    name: str
    mechanism: type
    shareable: bool


PLUGINS: list[Plugin] = []
# How the mechanisms of each field are made and called, as arguments that have to fit. Methods but these few are called
# by a base of the package that has them: without it, something else may have such a name.
CALLED = ("__init__", "forward", "initialize")
CALLS: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "attention_types": {
        "__init__": (("config", "layer_idx"), ()),
        "forward": (
            ("hidden_states", "visibility"),
            ("position_embeddings", "position_bias", "past_key_values", "position_ids"),
        ),
        "position_bias": (("query_positions", "key_positions"), ()),
        "scores": (("query", "key"), ()),
        "weights": (("scores", "visible"), ()),
        "mix": (("query", "key", "value", "visible"), ("position_bias",)),
        "inputs": (("hidden_states", "query", "key", "value"), ()),
        "without_padding": (("inputs", "is_token"), ()),
    },
    "position_type": {
        "__init__": (("config",), ()),
        "add_to": (("inputs_embeds", "position_ids"), ()),
        "rotate": (("hidden_states", "position_ids"), ()),
        "bias": (("query_positions", "key_positions"), ()),
        "biases": (("length", "device", "past_key_values", "layer_types"), ()),
    },
    "mlp_layer_types": {"__init__": (("config",), ()), "forward": (("hidden_states",), ())},
    "router_type": {
        "__init__": (("config",), ()),
        "logits": (("hidden_states",), ()),
        "scores": (("router_logits",), ()),
        "preferences": (("scores",), ()),
        "forward": (("hidden_states",), ()),
    },
}


def enter(rows: Choices, name: str, mechanism: Any, row: Kind, about: Mapping[str, Any]) -> Kind:
    """Checks a registration and completes its row.

    Raises:
        ValueError: See `register_attention`.
    """
    told = dict(about)
    check, shareable = told.pop("check", None), told.pop("shareable", True)
    if check is not None and not callable(check):
        raise ValueError(f"check={check!r} must be a function of a config.")
    if not isinstance(shareable, bool):
        raise ValueError(f"shareable={shareable!r} must be True or False.")
    check_calls(rows.field, mechanism)
    check_reading(mechanism, row)
    check_names(name, dict(row.fields))
    complete = describe(rows.field, mechanism, row, told)
    if shareable:
        check_imports(mechanism)
    PLUGINS[:] = [plugin for plugin in PLUGINS if (plugin.field, plugin.name) != (rows.field, name)]
    PLUGINS.append(Plugin(rows.field, name, mechanism, shareable))
    if check is not None:
        KIND_RULES[rows.field, name] = about["check"]
    return complete


def check_free(rows: Choices, name: str, mechanism: Any, row: Kind, about: Mapping[str, Any]) -> Kind:
    """Raises a `ValueError` for a name that another kind of the field has, or that no pattern could name."""
    known = {plugin.name: plugin for plugin in PLUGINS if plugin.field == rows.field}
    if re.fullmatch(r"[\w-]+", name) is None:
        raise ValueError(f"name={name!r} must be made of letters, digits, `_` and `-`: patterns of layers name it.")
    if name in rows and not (name in known and is_again(known[name].mechanism, mechanism)):
        raise ValueError(f"name={name!r} is taken: {rows.field} has {list(rows)}.")
    return row


def registered_files() -> list[str]:
    """The files that registered mechanisms stand in, for `load_plugin` in another process."""
    files = [source_of(plugin.mechanism) for plugin in PLUGINS]
    return list(dict.fromkeys(str(file) for file in files if file is not None))


def is_again(before: type, after: type) -> bool:
    """Whether a class is the other one, defined again: as a notebook does, and whoever reloads a module."""
    return (before.__module__, before.__qualname__) == (after.__module__, after.__qualname__)


def check_calls(field: str, mechanism: Any) -> None:
    """Raises a `ValueError` unless the class and its methods can be called as a model calls them."""
    if not isinstance(mechanism, type):
        raise ValueError(f"{mechanism!r} is no class: register the class, of which each layer makes its own.")
    calls: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {**CALLS[field], "initialize": ((), ())}
    own = [base for base in mechanism.__mro__[1:] if base.__module__.partition(".")[0] == PACKAGE]
    for method, (positional, keywords) in calls.items():
        function = getattr(mechanism, method, None)
        inherited = [vars(base)[method] for base in own if method in vars(base)]
        told = [misfit(each, positional, keywords) for each in inherited]
        if function is None or (method not in CALLED and not any(error is None for error in told)):
            continue
        error = misfit(function, positional, keywords)
        if error is not None:
            wanted = ", ".join(["self", *positional, *(f"{keyword}=..." for keyword in keywords)])
            raise ValueError(
                f"{mechanism.__qualname__}.{method}{inspect.signature(function)} cannot be called as ({wanted}): "
                f"{error}."
            )


def misfit(function: Any, positional: Sequence[str], keywords: Sequence[str]) -> TypeError | None:
    """Why a method cannot be called with such arguments, or None."""
    try:
        inspect.signature(function).bind(None, *positional, **dict.fromkeys(keywords))
    except TypeError as error:
        return error
    return None


def check_reading(mechanism: type, row: Any) -> None:
    """Raises a `ValueError` for attention that reads what is made for other classes."""
    allowed = ("tokens", "mask") if getattr(row, "has_pair_scores", False) else ("tokens",)
    read = getattr(mechanism, "sees_by", "tokens")
    if read not in allowed:
        raise ValueError(
            f"{mechanism.__qualname__}.sees_by={read!r} must be 'tokens', or 'mask' in a subclass of "
            "PairwiseAttention: masks are made for such classes only."
        )


def check_names(name: str, fields: Mapping[str, KindField]) -> None:
    """Raises a `ValueError` for a config field that is no identifier, or that something else reads already."""
    from .configuration_trine import TrineConfig  # which reads the rows

    prefix = re.sub(r"\W", "_", name)
    for field, spec in fields.items():
        if not field.isidentifier() or field.startswith("_"):
            raise ValueError(f"fields has {field!r}, which is not the name of a config field.")
        if not isinstance(spec, KindField):
            raise ValueError(f"fields[{field!r}]={spec!r} must be a KindField, with a default and what it is.")
        if not field.startswith(f"{prefix}_"):
            raise ValueError(f"fields has {field!r}: call it {prefix}_{field}, so that no other mechanism has it.")
        owners = [kind for table in KIND_TABLES.values() for kind, row in table.items() if field in dict(row.fields)]
        if owners and owners != [name]:
            raise ValueError(f"fields has {field!r}, which {owners[0]!r} has already.")
        if hasattr(TrineConfig, field) or field in TrineConfig.__dataclass_fields__:
            raise ValueError(f"fields has {field!r}, which is a field of every config.")


def describe(field: str, mechanism: Any, row: Any, told: dict[str, Any]) -> Kind:
    """The row with what its author told, and with what its class says where she told nothing."""
    first = (mechanism.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ").rstrip(".")
    first = re.sub(r"\s+", " ", first) or mechanism.__name__
    source = told.pop("source", f"{mechanism.__module__}.{mechanism.__qualname__}")
    if not isinstance(source, str):
        raise ValueError(f"source={source!r} must be a str.")
    defaults: dict[str, Any] = {}
    if field == "attention_types":
        row_class = AboutAttention
        defaults = {"cost": "unknown", "sees": first, "cache": "a state", "span": full_span}
        if row.has_pair_scores:
            defaults |= {"cost": "O(n²)", "cache": "all tokens"}
        if "pairs" not in told and "products" not in told:
            states = {"products": lambda config: state_products(config, config.head_dim)}
            defaults |= {"pairs": full_pairs} if row.has_pair_scores else states
    elif field == "position_type":
        row_class, defaults = AboutPosition, {"description": first, "beyond": "unknown"}
    elif field == "mlp_layer_types":
        row_class, defaults = AboutFeedForward, {"description": first}
    else:
        row_class, defaults = AboutRouter, {"weights": first, "balance": "`router_aux_loss_coef`"}
    allowed = [item.name for item in fields_of(row_class) if item.name != "fields"]
    for keyword in told:
        if keyword not in allowed:
            choices = [*allowed, "check", "shareable"]
            raise ValueError(f"{keyword!r} is none of {choices}.{suggest(keyword, choices)}")
    check_functions(field, told)
    names = dict.fromkeys(dict(row.fields))  # whose values have rules of their own
    return replace(row, about=row_class(**{**defaults, "source": source, "fields": names, **told}))


def check_functions(field: str, told: Mapping[str, Any]) -> None:
    """Raises a `ValueError` where an author told something of another type, or a kind to equal that there is not."""
    equals = told.get("equals", {})
    if not isinstance(equals, Mapping):
        raise ValueError(f"equals={equals!r} must map names of kinds to functions of a config, or to None.")
    for kind in equals:
        check_choice("equals", kind, list(KIND_TABLES[field]))
    for name in ("sees", "cost", "cache", "beyond", "balance", "weights", "description"):
        if not isinstance(told.get(name, ""), str):
            raise ValueError(f"{name}={told[name]!r} must be a str.")
    functions = {name: told.get(name) for name in ("pairs", "products", "span")}
    functions |= {f"equals[{kind!r}]": function for kind, function in equals.items()}
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise ValueError(f"{name}={function!r} must be a function of a config.")
