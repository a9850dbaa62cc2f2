"""What no config may ask for is refused with its name, before anything is built from it."""

import tracemalloc
from typing import get_args

import pytest
from support.value_errors import INFINITY, NAN, VALUE_ERRORS

from trine import TrineConfig, TrineRecurrentConfig, TrineSeq2SeqConfig


FAMILIES = (TrineConfig, TrineSeq2SeqConfig, TrineRecurrentConfig)
NUMBERS = [
    (family, name)
    for family in FAMILIES
    for name, field in family.__dataclass_fields__.items()
    if float in (field.type, *get_args(field.type))
]


def refusal(family, fields) -> str:
    with pytest.raises(ValueError) as caught:
        family(**fields)
    return str(caught.value)


@pytest.mark.parametrize("case", VALUE_ERRORS)
def test_a_value_beyond_all_bounds_is_named(case):
    family, fields, message = VALUE_ERRORS[case]
    assert refusal(family, fields).startswith(message)


def test_every_class_has_fields_for_numbers():
    assert {family for family, _ in NUMBERS} == set(FAMILIES) and len(NUMBERS) >= 14


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize(("family", "field"), NUMBERS)
def test_numbers_are_finite(family, field, value):
    assert refusal(family, {field: value}) == f"{field}={value} must be a finite number, at most 1,000,000."


@pytest.mark.parametrize("fields", [{"attention_types": "full*1000000000"}, {"num_hidden_layers": 10**9}])
def test_a_refused_config_takes_no_memory(fields):
    tracemalloc.start()
    refusal(TrineConfig, fields)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**7


def test_a_long_pattern_takes_no_more_than_its_layers():
    tracemalloc.start()
    config = TrineConfig(num_hidden_layers=3, attention_types=", ".join(["full*10000"] * 1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert config.attention_types == ["full"] * 3 and peak < 10**7


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("Did you mean 'bert-base'?", lambda: TrineConfig.from_preset("BERT-base")),
        ("Did you mean 'gpt2'?", lambda: TrineConfig.from_preset("gpt-2")),
        ("TrineSeq2SeqConfig.from_preset('t5-like')", lambda: TrineConfig.from_preset("T5-like")),
        ("TrineConfig.from_preset('bert-base')", lambda: TrineSeq2SeqConfig.from_preset("bert-base")),
    ],
)
def test_a_preset_is_found_in_any_case_and_in_the_other_class(message, call):
    with pytest.raises(ValueError) as caught:
        call()
    assert message in str(caught.value)


def test_a_pattern_is_not_read_after_the_config_is_made():
    config = TrineConfig()
    config.attention_types = "sliding, full"
    with pytest.raises(ValueError, match=r"attention_types='sliding, full' is a pattern, .* each of the 8 layers"):
        config.check()
