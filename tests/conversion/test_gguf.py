"""GGUF files: llama.cpp writes the tokens of transformers, and the weights are those of the checkpoint."""

import functools

import pytest
import torch
from support.conversion_sources import LLAMA3
from support.llama_cpp import find_llama_cpp, run_llama_cpp
from support.tiny import random_ids, tiny_model
from support.tokenizer_texts import TEXTS
from transformers import AutoModelForCausalLM

from trine import TrineForCausalLM, convert, export, train_byte_level_bpe


YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 24}
SPARSE = {"mlp_layer_types": "sparse", "router_type": "softmax"}
MODELS = {
    "grouped": {},
    "untied": {"tie_word_embeddings": False, "num_key_value_heads": 4},
    "wide heads": {"head_dim": 16},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0}},
    "llama3": {"rope_parameters": LLAMA3},
    "yarn": {"rope_parameters": YARN},
    "yarn, own factors": {"rope_parameters": {**YARN, "attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0}},
    "qk_norm": {"qk_norm": True},
    "qk_norm, yarn": {"qk_norm": True, "rope_parameters": YARN},
    "experts": SPARSE,
    "qk_norm, experts": {**SPARSE, "qk_norm": True},
}
LENGTH, STEPS = 40, 12


@functools.cache
def tokenizer():
    return train_byte_level_bpe(TEXTS, 400, show_progress=False, pre_tokenizer="qwen2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and its file for each of `MODELS`, in float32."""
    folder = tmp_path_factory.mktemp("gguf")
    for name, fields in MODELS.items():
        save_model(folder / name / "model", **fields)
        assert export(folder / name / "model", folder / name / "made", format="gguf") == 0.0
    return folder


def save_model(path, **fields):
    """A random model with a tokenizer."""
    fields = {"vocab_size": len(tokenizer()) + 3, "eos_token_id": tokenizer().eos_token_id, **fields}
    tiny_model(dtype=torch.float32, **fields).save_pretrained(path)
    tokenizer().save_pretrained(path)


def prompt() -> list[int]:
    return random_ids(LENGTH, vocab_size=len(tokenizer())).tolist()


@pytest.fixture(scope="module")
def answers(folder):
    """What llama.cpp says of each model."""
    find_llama_cpp()
    requests = [
        {"kind": "probabilities", "ids": prompt()},
        {"kind": "generate", "ids": prompt(), "steps": STEPS},
    ]
    return dict(
        zip(MODELS, run_llama_cpp([(folder / name / "made/model.gguf", requests) for name in MODELS]), strict=True)
    )


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_the_same(name, folder, answers):
    """Every probability after each of 40 tokens, and the tokens of greedy decoding."""
    model = TrineForCausalLM.from_pretrained(folder / name / "model").eval()
    probabilities, made = answers[name]
    expected = model(torch.tensor([prompt()])).logits[0].softmax(dim=-1)
    actual = torch.zeros_like(expected)
    for row, pairs in zip(actual, probabilities, strict=True):
        assert len(pairs) == model.config.vocab_size
        for token, probability in pairs:
            row[token] = probability
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)
    greedy = model.generate(torch.tensor([prompt()]), max_new_tokens=STEPS, do_sample=False, eos_token_id=None)
    assert made == greedy[0, LENGTH:].tolist()
