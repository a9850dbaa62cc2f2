"""The tables of README and documentation, made from the rows of what can be chosen.

A page asks for a table by a comment, `<!-- table: NAME -->`, which the site replaces when it is built. The README is
read as it is and holds its table, between that comment and `<!-- end -->`; `python docs/builder/tables.py` renews it.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from chinese import in_chinese

from trine import (
    TrineConfig,
    TrineDualEncoderConfig,
    TrineImageTextConfig,
    TrineRecurrentConfig,
    TrineSeq2SeqConfig,
)
from trine.configuration import kinds
from trine.configuration.input_kinds import INPUT_KINDS
from trine.configuration.presets import PRESET_SUMMARIES, PRESETS, SEQ2SEQ_PRESETS
from trine.conversion.families.table import FAMILIES
from trine.conversion.lifts.table import LIFTS
from trine.modeling.kernels.simplicial.table import BACKENDS
from trine.scripts.cli import find_scripts, summary_of
from trine.tokenization.training import TOKENIZERS


ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
READMES = {README: "en", ROOT / "README.zh-CN.md": "zh"}
MARK = re.compile(r"<!-- table: ([\w-]+) -->\n(?:(?!<!-- ).*\n)*?<!-- end -->\n")
REQUEST = re.compile(r"<!-- table: ([\w-]+) -->\n")
ARXIV = re.compile(r"([^\s;:][^;:]*?), arXiv (\d{4}\.\d{5})")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def linked(source: str) -> str:
    """A source with links in place of the numbers of arXiv."""
    return ARXIV.sub(lambda match: f"[{match[1].strip()}](https://arxiv.org/abs/{match[2]})", source).replace(
        ")](", "]("
    )


def brief(source: str) -> str:
    """The first work that a source names, with its link, without its section."""
    found = ARXIV.search(source)
    return linked(found[0]) if found else re.split("[,:]", source)[0]


def code(name: object) -> str:
    """A name as code."""
    return f"`{name}`"


def attention() -> str:
    """The attention kinds."""
    header = ("kind", "a token sees", "cost", "cache", "kernels", "source")
    return table(
        header,
        (
            (code(name), row.about.sees, row.about.cost, row.about.cache, _kernels(row), linked(row.about.source))
            for name, row in kinds.ATTENTION_KINDS.items()
        ),
    )


def _kernels(row: kinds.AttentionKind) -> str:
    return f"eager, sdpa, flex{', flash' * row.flash}" if row.has_pair_scores else "its own"


def positions() -> str:
    """The position encodings."""
    rows = kinds.POSITION_KINDS.items()
    return table(
        ("kind", "what it does", "beyond the trained length", "source"),
        ((code(name), row.about.description, row.about.beyond, linked(row.about.source)) for name, row in rows),
    )


def inputs() -> str:
    """The fields of each input, with defaults and meanings."""
    rows = ((kind, name, spec) for kind, row in INPUT_KINDS.items() for name, spec in row.fields)
    return table(
        ("`input_type`", "field", "default", "meaning"),
        ((code(kind), code(name), code(spec.default), spec.doc) for kind, name, spec in rows),
    )


def routers() -> str:
    """The routers."""
    rows = kinds.ROUTER_KINDS.items()
    return table(
        ("`router_type`", "weights", "balance", "source"),
        ((code(name), row.about.weights, row.about.balance, linked(row.about.source)) for name, row in rows),
    )


def simplicial_forms() -> str:
    """The trilinear forms of 2-simplicial attention."""
    rows = kinds.TRILINEAR_KINDS.items()
    return table(
        ("`simplicial_form`", "logit, over features", "positions it may have", "source"),
        ((code(name), row.about.logit, row.about.positions, linked(row.about.source)) for name, row in rows),
    )


def simplicial_backends() -> str:
    """The backends of 2-simplicial attention, by the docstrings of their modules."""
    backends = [BACKENDS[name](None, None, None) for name in kinds.SIMPLICIAL_BACKENDS if name != "auto"]
    return table(
        ("`simplicial_backend`", "what it is"),
        ((code(each.name), summary_of_module(each.compute)) for each in backends),
    )


def tokenizers() -> str:
    """The kinds of tokenizers, by the docstrings of their modules."""
    return table(
        ("function", "`--kind`", "what it makes"),
        ((code(train.__name__), code(kind), summary_of_module(train)) for kind, train in TOKENIZERS.items()),
    )


def summary_of_module(function: Callable[..., object]) -> str:
    """The first line of the docstring of the module that a function is defined in."""
    return (inspect.getdoc(inspect.getmodule(function)) or "").partition("\n")[0]


def shapes() -> str:
    """The shapes of models, the config of each and its classes."""
    rows = (
        ("decoder", "TrineConfig()", TrineConfig, True),
        ("encoder", "TrineConfig(is_causal=False)", TrineConfig, False),
        ("encoder-decoder", "TrineSeq2SeqConfig(encoder=..., decoder=...)", TrineSeq2SeqConfig, None),
        ("LSTM baseline", 'TrineRecurrentConfig(attention="dot")', TrineRecurrentConfig, None),
    )
    return table(
        ("shape", "config", "models"),
        ((shape, code(call), ", ".join(map(code, classes_of(config, role)))) for shape, call, config, role in rows),
    )


def classes_of(config: Any, is_causal: bool | None) -> list[str]:
    """The classes that a config is for, of decoders or of encoders alone where it is for both."""
    unfit = config.hub_roles.get(not is_causal, ()) if is_causal is not None else ()
    return [name for name in dict.fromkeys(config.hub_auto_map.values()) if name not in unfit]


def families() -> str:
    """The families of transformers that are converted, with their classes."""
    return table(
        ("`--to`", "classes"),
        ((code(name), ", ".join(code(head.source) for head in family.heads)) for name, family in FAMILIES.items()),
    )


def feature_maps() -> str:
    """The feature maps of linear attention."""
    rows = kinds.LINEAR_FEATURE_MAPS.items()
    return table(
        ("`linear_feature_map`", "features, in head sizes", "what"),
        ((code(name), str(row.expansion), linked(row.about.source)) for name, row in rows),
    )


def lifts() -> str:
    """The lifts; their options are on the page of commands."""
    return table(
        ("`--to`", "what becomes what", "the same function", "source"),
        ((code(kind), lift.becomes, lift.stays, linked(lift.source)) for kind, lift in LIFTS.items()),
    )


def presets() -> str:
    """The presets and the configs that have them."""
    owners = {"TrineConfig": PRESETS, "TrineSeq2SeqConfig": SEQ2SEQ_PRESETS}
    return table(
        ("preset", "of", "what"),
        (
            (f'`"{name}"`', ", ".join(code(owner) for owner, known in owners.items() if name in known), summary)
            for name, summary in PRESET_SUMMARIES.items()
        ),
    )


def choices() -> str:
    """All that can be chosen by name: the README's table. A kind with a row of its own says what it is."""
    rows: list[Sequence[str]] = []
    for field, kinds_of_field, describe in DESCRIBED:
        for number, (name, row) in enumerate(kinds_of_field.items()):
            rows.append((code(field) if number == 0 else "", code(name), describe(row), brief(row.about.source)))
    rows += [(code(field), ", ".join(map(code, names)), "", "") for field, names in NAMED.items()]
    return table(("field", "choice", "what it is", "source"), rows)


DESCRIBED: tuple[tuple[str, dict[str, Any], Callable[[Any], str]], ...] = (
    ("input_type", INPUT_KINDS, lambda row: row.about.description),
    ("attention_types", kinds.ATTENTION_KINDS, lambda row: f"sees {row.about.sees}; {row.about.cost}"),
    ("simplicial_form", kinds.TRILINEAR_KINDS, lambda row: row.about.logit),
    ("position_type", kinds.POSITION_KINDS, lambda row: row.about.description),
    ("mlp_layer_types", kinds.FEED_FORWARD_KINDS, lambda row: row.about.description),
    ("router_type", kinds.ROUTER_KINDS, lambda row: row.about.weights),
)
NAMED = {
    "linear_feature_map": kinds.LINEAR_FEATURE_MAPS,
    "norm_type": kinds.NORM_TYPES,
    "norm_position": kinds.NORM_POSITIONS,
    "initializer": kinds.INITIALIZERS,
    "classifier_pooling": kinds.POOLINGS,
}


def commands() -> str:
    """The sub-commands of `trine`, with links to their options."""
    return table(
        ("command", "what it does"),
        (
            (f"[`trine {name}`](#trine-{name.replace(' ', '-')})", summary_of(module))
            for name, module in find_scripts().items()
        ),
    )


def described_fields(config: type) -> dict[str, str]:
    """The description of each field in the docstring of a config class, on one line."""
    arguments = (config.__doc__ or "").split("Args:\n")[1].split("\n\n")[0]
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", arguments, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in entries}


def own_fields(config: type) -> dict[str, object]:
    """The default of each field that a config class itself declares."""
    return {field.name: field.default for field in fields(config) if field.name in config.__annotations__}


def field_table(config: type) -> str:
    """The fields of a config class, their defaults and what its docstring says of them."""
    defaults = own_fields(config)
    return table(
        ("field", "default", "meaning"),
        ((code(name), code(defaults[name]), text) for name, text in described_fields(config).items()),
    )


TABLES: dict[str, Callable[[], str]] = {
    "attention": attention,
    "inputs": inputs,
    "positions": positions,
    "routers": routers,
    "simplicial-forms": simplicial_forms,
    "simplicial-backends": simplicial_backends,
    "shapes": shapes,
    "tokenizers": tokenizers,
    "families": families,
    "feature-maps": feature_maps,
    "lifts": lifts,
    "presets": presets,
    "choices": choices,
    "commands": commands,
    **{
        f"fields-{config.__name__}": lambda config=config: field_table(config)
        for config in (
            TrineConfig,
            TrineSeq2SeqConfig,
            TrineDualEncoderConfig,
            TrineImageTextConfig,
            TrineRecurrentConfig,
        )
    },
}


def made(name: str, language: str = "en") -> str:
    """A table by its name, in a language."""
    return in_chinese(TABLES[name]()) if language == "zh" else TABLES[name]()


def expand(text: str, language: str = "en") -> str:
    """A page with its tables in place of the comments that ask for them.

    Raises:
        KeyError: There is no table of that name.
    """
    return REQUEST.sub(lambda match: made(match[1], language), text)


def renew(text: str, language: str = "en") -> str:
    """The README with its tables made anew, between the comments that stand around them."""
    return MARK.sub(lambda match: f"<!-- table: {match[1]} -->\n{made(match[1], language)}<!-- end -->\n", text)


if __name__ == "__main__":
    for path, language in READMES.items():
        path.write_text(renew(path.read_text(encoding="utf-8"), language), encoding="utf-8")
