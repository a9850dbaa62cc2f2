"""Whatever configuration is drawn: it is refused with the name of a field, or the model trains, writes and saves."""

import tempfile
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.random_configs import CLASSES, PROMPT, SHAPES
from support.random_models import HEADS, check_model
from support.tally import TALLY, budget


# Draws of an ordinary run, and of `make fuzz`.
BUDGETS = {"decoder": (25, 400), "encoder": (20, 300), "encoder-decoder": (20, 300), "lstm": (8, 100)}


@pytest.mark.parametrize("config_class", CLASSES)
def test_every_field_is_drawn(config_class):
    assert set(CLASSES[config_class]) == {field.name for field in fields(config_class)}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_that_is_not_refused_works(shape):
    def check(head, values, length):
        with tempfile.TemporaryDirectory() as folder:
            check_model(shape, head, values, length, Path(folder))

    @budget(*BUDGETS[shape])
    @given(st.sampled_from(HEADS[shape]), SHAPES[shape], st.integers(2, PROMPT))
    def run(head, values, length):
        TALLY.run(f"valid: {shape}", check, head, values, length)

    run()
    TALLY.close(f"valid: {shape}")
