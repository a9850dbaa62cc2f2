"""The rows of `kinds.py`, the classes of the tables and the loops of the reference name the same kinds."""

import re
from dataclasses import dataclass, fields

import pytest
from support import reference
from transformers import cache_utils

from trine import TrineConfig
from trine.configuration import kinds
from trine.configuration.kind_rows import About, Kind
from trine.configuration.validation import (
    CHOICES,
    NOT_NEGATIVE,
    POSITIVE_INTEGERS,
    POSITIVE_NUMBERS,
    PROBABILITIES,
)
from trine.modeling.attention.table import ATTENTIONS
from trine.modeling.block import LAYERS
from trine.modeling.feed_forward.balancing import BALANCING_LOSSES
from trine.modeling.feed_forward.routers import ROUTERS
from trine.modeling.feed_forward.table import FEED_FORWARDS
from trine.modeling.initialization import STANDARD_DEVIATIONS
from trine.modeling.norms import NORMS
from trine.modeling.positions.table import POSITIONS


STRATEGIES = pytest.importorskip("support.random_configs").CLASSES
TABLES = {
    "attention": (kinds.ATTENTION_KINDS, ATTENTIONS),
    "position": (kinds.POSITION_KINDS, POSITIONS),
    "feed_forward": (kinds.FEED_FORWARD_KINDS, FEED_FORWARDS),
    "router": (kinds.ROUTER_KINDS, ROUTERS),
}


PARTS = ("row in configuration/kinds.py", "class in the table of its folder", "loop in tests/support/reference/")
RULED = {*POSITIVE_INTEGERS, *NOT_NEGATIVE, *POSITIVE_NUMBERS, *PROBABILITIES, *CHOICES}
# Fields with a rule in a function of their own.
SPECIAL = {"relative_attention_num_buckets", "relative_attention_max_distance"}


def described_fields(config: type) -> set[str]:
    """The fields that the docstring of a config class describes."""
    return set(
        re.findall(r"^ +(\w+): ", (config.__doc__ or "").split("Args:\n")[1].split("\n\n")[0], flags=re.MULTILINE)
    )


def own_fields(config: type) -> dict[str, object]:
    """The default of each field that a config class itself declares."""
    return {field.name: field.default for field in fields(config) if field.name in config.__annotations__}


def missing_parts(*tables) -> list[str]:
    """What each kind lacks that is in one of the tables of rows, classes and loops."""
    kinds_of_all = dict.fromkeys(kind for table in tables for kind in table)
    pairs = [
        (kind, part) for kind in kinds_of_all for part, table in zip(PARTS, tables, strict=True) if kind not in table
    ]
    return [f"{kind!r} has no {part}" for kind, part in pairs]


def field_faults(kind: str, row: Kind, config: type, strategies) -> list[str]:
    """What the fields that the row of a kind names lack, and fields that bear its name without being there."""
    declared, named = own_fields(config), row.about.fields
    faults = [
        f"{name} bears the name of {kind!r}, whose row does not name it"
        for name in declared
        if name.startswith(f"{kind}_") and name not in named
    ]
    for name in named:
        if name not in declared:
            faults.append(f"{name} of {kind!r} is no field of {config.__name__}")
            continue
        if name not in described_fields(config):
            faults.append(f"{name} of {kind!r} has no documentation in {config.__name__}")
        if name not in strategies:
            faults.append(f"{name} of {kind!r} has no strategy in tests/support/random_configs.py")
        is_number = isinstance(declared[name], int | float) and not isinstance(declared[name], bool)
        if is_number and name not in RULED | SPECIAL:
            faults.append(f"{name} of {kind!r} has no rule: give one in its row")
        if isinstance(declared[name], str) and name not in RULED:
            faults.append(f"{name} of {kind!r} has no choices in configuration/validation.py")
    return faults


@pytest.mark.parametrize("name", TABLES)
def test_no_part_of_a_kind_is_missing(name):
    rows, classes = TABLES[name]
    assert missing_parts(rows, classes, reference.REFERENCES[name]) == []
    assert all(row.about.source for row in rows.values())
    assert len(set(classes.values())) == len(classes)


@pytest.mark.parametrize("name", TABLES)
def test_the_fields_of_every_kind_are_complete(name):
    for kind, row in TABLES[name][0].items():
        assert field_faults(kind, row, TrineConfig, STRATEGIES[TrineConfig]) == []


@pytest.mark.parametrize("config", STRATEGIES)
def test_every_field_of_a_config_is_drawn_at_random(config):
    assert STRATEGIES[config].keys() == {field.name for field in fields(config)}


def test_what_is_missing_is_said_by_name():
    assert missing_parts({"new": 1}, {"new": 1}, {}) == ["'new' has no loop in tests/support/reference/"]
    assert missing_parts({}, {"new": 1}, {"new": 1}) == ["'new' has no row in configuration/kinds.py"]
    assert missing_parts({"new": 1}, {}, {"new": 1}) == ["'new' has no class in the table of its folder"]

    class Config:
        """A config.

        Args:
            new_word: Documented.
        """

        new_power: int = 3
        new_word: str = "a"
        new_size: int = 4

    config = dataclass(Config)
    row = Kind(about=About(source="here", fields={"new_power": None, "new_word": None, "absent": None}))
    assert field_faults("new", row, config, {"new_word"}) == [
        "new_size bears the name of 'new', whose row does not name it",
        "new_power of 'new' has no documentation in Config",
        "new_power of 'new' has no strategy in tests/support/random_configs.py",
        "new_power of 'new' has no rule: give one in its row",
        "new_word of 'new' has no choices in configuration/validation.py",
        "absent of 'new' is no field of Config",
    ]


@pytest.mark.parametrize("kind", kinds.ATTENTION_KINDS)
def test_operations_of_every_attention_are_counted_one_way(kind):
    about = kinds.ATTENTION_KINDS[kind].about
    assert (about.pairs is None) != (about.products is None), f"{kind!r} needs pairs or products in its row"


def test_every_choice_without_a_row_has_an_implementation():
    assert set(kinds.NORM_TYPES) == set(NORMS) == set(reference.NORMS)
    assert set(kinds.NORM_POSITIONS) == set(LAYERS)
    assert set(kinds.INITIALIZERS) == set(STANDARD_DEVIATIONS)
    assert set(kinds.BALANCING_REDUCTIONS) == set(BALANCING_LOSSES)


@pytest.mark.parametrize("kind", kinds.ATTENTION_KINDS)
def test_every_attention_has_caches_and_a_window_field(kind):
    row = kinds.ATTENTION_KINDS[kind]
    for mapping in (cache_utils.DYNAMIC_LAYER_TYPE_MAPPING, cache_utils.STATIC_LAYER_TYPE_MAPPING):
        assert row.layer_type in mapping
    assert row.window_field is None or hasattr(TrineConfig(), row.window_field)
