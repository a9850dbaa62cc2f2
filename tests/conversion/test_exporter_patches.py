"""Transformers' own exporters serve our models, with the package and as remote code."""

import logging
from copy import deepcopy

import pytest
import torch
from support.tiny import random_ids, tiny_model
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter
from transformers.exporters.utils import decompose_for_generation, get_leaf_tensors

from trine import TrineForCausalLM, TrineRecurrentConfig, TrineRecurrentForConditionalGeneration


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """What torch logs of every shape takes long to collect."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def decoder(kind: str):
    fields = {"num_hidden_layers": 1, "pad_token_id": 0}
    return tiny_model(dtype=torch.float32, attn="sdpa", scale=1.5, attention_types=kind, **fields)


def recurrent():
    fields = {"num_hidden_layers": 1, "decoder_start_token_id": 0, "pad_token_id": 0}
    return TrineRecurrentForConditionalGeneration(TrineRecurrentConfig(vocab_size=61, hidden_size=8, **fields)).eval()


@torch.no_grad()
def check(model) -> None:
    inputs = {"input_ids": random_ids(2, 9), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = random_ids(2, 5)
    exported = OnnxExporter().export(model, {**inputs, "use_cache": False}, config=OnnxConfig(dynamic=False))
    torch.testing.assert_close(exported(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["simplicial", "lsh", "recurrent"])
def test_operators_of_trine_are_written_out(name):
    check(recurrent() if name == "recurrent" else decoder(name))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["chunked", "linear", "performer", "bigbird"])
def test_every_other_kind(kind):
    check(decoder(kind))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bigbird", "lsh"])
def test_the_passes_of_generate_return_the_same_cache(kind):
    """Of layers that keep all tokens: positions are given, and the cache holds no tensor that tracing lacks."""
    prompt = {"input_ids": random_ids(2, 9), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    for model, inputs in decompose_for_generation(decoder(kind), prompt).values():
        expected = get_leaf_tensors(model(**deepcopy(inputs)))
        program = DynamoExporter().export(model, deepcopy(inputs), config=DynamoConfig(dynamic=False))
        actual = get_leaf_tensors(program(**inputs))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        assert expected.keys() > {"logits", "past_key_values.layers.0.keys"}


def test_remote_code_registers_its_own(tmp_path):
    decoder("simplicial").save_pretrained(tmp_path)
    remote = get_class_from_dynamic_module("modeling_trine.TrineForCausalLM", str(tmp_path))
    assert remote.__module__.startswith("transformers_modules.") and remote is not TrineForCausalLM
    config = get_class_from_dynamic_module("configuration_trine.TrineConfig", str(tmp_path)).from_pretrained(tmp_path)
    check(remote.from_pretrained(tmp_path, config=config, attn_implementation="sdpa").eval())
