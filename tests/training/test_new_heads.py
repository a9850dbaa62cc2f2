"""A head that is new on purpose is told in one line; everything else that loading has to say is still said."""

import logging

import pytest
import torch
from support.tiny import tiny_model
from transformers import AutoModelForSequenceClassification

from trine import TrineForMaskedLM
from trine.training.new_heads import describe_new_weights, without_load_report


LOGGER = logging.getLogger("transformers.modeling_utils")


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.fixture
def warns():
    """Warnings are logged, whatever the tests before have made of the loggers."""
    logging.disable(logging.NOTSET)
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    yield
    LOGGER.setLevel(level)


def test_the_report_is_held_back_and_the_head_is_named(tmp_path, warns):
    tiny_model(TrineForMaskedLM, dtype=torch.float32, is_causal=False).save_pretrained(tmp_path)
    lines = Lines()
    LOGGER.addHandler(lines)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert any("LOAD REPORT" in text for text in lines.texts)
        lines.texts.clear()
        with without_load_report():
            AutoModelForSequenceClassification.from_pretrained(tmp_path)
            LOGGER.warning("something else")
        assert lines.texts == ["something else"]
        AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert any("LOAD REPORT" in text for text in lines.texts)
    finally:
        LOGGER.removeHandler(lines)
    missing = sorted(info["missing_keys"])
    assert missing and describe_new_weights(model, info) == f"The head is new: {', '.join(missing)}."


def test_missing_weights_of_the_trunk_are_no_new_head():
    model = tiny_model(is_causal=False)
    model.base_model_prefix = "model"
    info = {"missing_keys": {"model.norm.weight", "score.weight"}, "mismatched_keys": [("model.a", (1,), (2,))]}
    assert describe_new_weights(model, info) == (
        "These weights of the trunk are not in the checkpoint, and random: model.a, model.norm.weight."
    )
    assert describe_new_weights(model, {"missing_keys": set(), "mismatched_keys": []}) is None
