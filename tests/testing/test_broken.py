"""Mechanisms that are wrong in one way are caught, by the check that is named after it."""

import re
import shutil
from pathlib import Path

import pytest
from support.plugins import tables_restored

from trine.configuration.plugin_files import load_plugin
from trine.testing import CHECKS, check_mechanism


BROKEN = Path(__file__).parents[1] / "support" / "broken_mechanisms.py"
# Each mechanism, the check that catches it, and one that it passes all the same.
CAUGHT = {
    "wrong_shape": ("construction", None),
    "bare_tensor": ("construction", None),
    "one_for_all": ("construction", None),
    "pair_returned": ("construction", None),
    "never_filled": ("initialization", None),
    "filled_early": ("initialization", "saving"),
    "detached": ("gradients", "padding"),
    "unused": ("gradients", "overfitting"),
    "looks_ahead": ("causality", "padding"),
    "looks_far_ahead": ("causality", None),
    "forgets_chunks": ("cache", "causality"),
    "writes_keys": ("cache", "causality"),
    "normalizes_columns": ("causality", "packing"),
    "one_sided": ("reach", "causality"),
    "forgets_padding": ("padding", "packing"),
    "leaks_between_texts": ("packing", "padding"),
    "deaf_to_bias": ("position bias", "cache"),
    "forgets_a_token": ("cache", "padding"),
    "wrong_reorder": ("beams", "causality"),
    "wrong_crop": ("crop", "beams"),
    "sees_empty_places": ("static cache", "packing"),
    "writes_attributes": ("attributes", "cache"),
    "counts_calls": ("attributes", "initialization"),
    "wrong_dtype": ("half precision", "cache"),
    "overflows": ("half precision", "checkpointing"),
    "other_when_repeated": ("checkpointing", "cache"),
    "asks_values": ("compilation", "causality"),
    "equals_nothing": ("equality", "causality"),
    "noisy": ("overfitting", "causality"),
    "overwrites": ("saving", "gradients"),
    "counts_places": ("padding", "causality"),
    "mixes_tokens": ("causality", "gradients"),
    "overflowing": ("construction", None),
}


@pytest.fixture(scope="module", autouse=True)
def broken(tmp_path_factory):
    with tables_restored():
        load_plugin(shutil.copy(BROKEN, tmp_path_factory.mktemp("plugins")))
        yield


@pytest.mark.parametrize("name", CAUGHT)
def test_what_is_wrong_is_caught_by_its_name(name):
    catching, passing = CAUGHT[name]
    rows = {row.name: row for row in check_mechanism(name, only=[catching, passing or catching])}
    assert rows[catching].passed is False, rows
    assert rows[catching].detail
    assert rows[catching].hint == next(check.hint for check in CHECKS if check.name == catching)
    if passing is not None:
        assert rows[passing].passed, rows[passing]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bare_tensor", "TypeError: BareTensor.forward must return (output, weights or None), .* not a Tensor"),
        ("wrong_shape", "ValueError: WrongShape.forward must return .* which is (1, 1, 32), and not (1, 0, 32)"),
        ("one_for_all", "ValueError: OneForAll.forward must return a tensor .* (2, 2, 32), and not (2, 1, 32)"),
        ("pair_returned", "TypeError: PairReturned.forward must return .* not a tuple (Tensor, NoneType)"),
    ],
)
def test_what_is_returned_wrongly_is_said_by_the_name_of_the_class(name, told):
    (row,) = check_mechanism(name, only=["construction"])
    assert re.match(told.replace("(", r"\(").replace(")", r"\)"), row.detail), row


def test_every_check_catches_something():
    """But for those that report, that need an oracle, and that start a process."""
    caught = {catching for catching, _ in CAUGHT.values()}
    assert caught == {check.name for check in CHECKS} - {"oracle", "cost", "sharing"}


def test_the_rounding_of_float32_is_said_to_be_that():
    failed = [row for row in check_mechanism("single_precision", skip=["compilation", "sharing"]) if not row.passed]
    assert "gradients" in [row.name for row in failed]
    for row in failed:
        assert row.hint.startswith("It computes in float32"), row


@pytest.mark.parametrize("name", ["right", "right_state"])
def test_what_is_right_passes(name):
    for row in check_mechanism(name, skip=["compilation", "sharing"]):
        assert row.passed, row


@pytest.mark.slow
@pytest.mark.parametrize("name", ["right", "right_state"])
def test_what_is_right_compiles_and_is_shared(name):
    for row in check_mechanism(name, only=["compilation", "sharing"]):
        assert row.passed, row
