"""Checkpoints that the first version, 0.1.0, saved: their tensors keep their names, and their logits their values."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trine import TrineForCausalLM, TrineForConditionalGeneration, TrineForMaskedLM


FOLDER = Path(__file__).parent / "first_version"
MODELS = {
    "decoder": TrineForCausalLM,
    "encoder": TrineForMaskedLM,
    "encoder_decoder": TrineForConditionalGeneration,
}


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_checkpoints_of_the_first_version_load_with_equal_logits(name):
    model, report = MODELS[name].from_pretrained(FOLDER / name, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    batch = load_file(FOLDER / name / "expected.safetensors")
    expected = batch.pop("logits")
    real = batch["attention_mask"] == 1 if name != "encoder_decoder" else torch.ones(expected.shape[:2], dtype=bool)
    assert expected[real].std() > 0.05  # not all equal
    torch.testing.assert_close(model.eval()(**batch).logits[real], expected[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_state_dicts_have_the_names_of_the_first_version(name):
    model = MODELS[name].from_pretrained(FOLDER / name)
    tied = model.state_dict().keys() & set(model.all_tied_weights_keys)
    assert model.state_dict().keys() - tied == load_file(FOLDER / name / "model.safetensors").keys() - tied
