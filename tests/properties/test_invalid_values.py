"""A value that a field must not have is refused, on every way into a config, by an error that names the field."""

import re
from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st
from support.invalid_values import CASES, bad_values, invalid_draws
from support.random_models import REFUSALS
from support.tally import TALLY, Refused, budget

from trine import TrineConfig, TrineSeq2SeqConfig


def by_change(family, name, value):
    config = family()
    setattr(config, name, value)
    config.check()


WAYS = {
    "constructor": lambda family, name, value: family(**{name: value}),
    "file": lambda family, name, value: family.from_dict({name: value}),
    "override": lambda family, name, value: family.from_dict(family().to_dict(), **{name: value}),
    "change": by_change,
    "stack": lambda family, name, value: TrineSeq2SeqConfig(decoder={name: value}),
}
# Set by the whole for its stacks.
ROLES = ("is_causal", "add_cross_attention", "cross_attention_hidden_size")


def check(way, draw):
    family, name, value = draw
    if way == "stack" and (family is not TrineConfig or name in ROLES):
        way = "constructor"
    try:
        WAYS[way](family, name, value)
    except REFUSALS as error:
        assert re.search(rf"\b{name}\b", str(error)), f"{name} is not named in: {error}"
        raise Refused from error
    raise AssertionError(f"{family.__name__}: {name}={value!r} was accepted by {way}")


def test_every_field_has_values_that_it_must_not_have():
    assert not [field.name for family, field in CASES if len(bad_values(field)) < 3]
    assert {field.name for family, field in CASES if family is TrineConfig} == {f.name for f in fields(TrineConfig)}


def test_a_value_that_must_not_be_is_named():
    @budget(400, 4000)
    @given(st.sampled_from(sorted(WAYS)), invalid_draws())
    def run(way, draw):
        TALLY.run("invalid values", expect_refusal, way, draw)

    run()
    TALLY.close("invalid values")


def expect_refusal(way, draw):
    check(way, draw)
