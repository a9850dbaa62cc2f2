"""GGUF files of decoders: llama.cpp computes what transformers does, from the weights of the checkpoint."""

import functools

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from support.conversion_sources import LLAMA3
from support.llama_cpp import find_llama_cpp, run_llama_cpp
from support.tiny import random_ids, tiny_model
from support.tokenizer_texts import TEXTS
from transformers import AutoConfig, AutoModelForCausalLM

from trine import TrineForCausalLM, convert, export, train_byte_level_bpe
from trine.conversion.gguf import export as gguf_export
from trine.conversion.gguf.tensors import DTYPES


YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 24}
SPARSE = {"mlp_layer_types": "sparse", "num_experts": 4}
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
FAMILIES = {"grouped": "llama", "untied": "llama", "qk_norm": "qwen3", "qk_norm, experts": "qwen3_moe"}
HALVES = {"f16": torch.float16, "bf16": torch.bfloat16}
LENGTH, STEPS = 40, 12


@functools.cache
def tokenizer():
    return train_byte_level_bpe(TEXTS, 390, show_progress=False, pre_tokenizer="qwen2")


def save_model(path, **fields):
    """A random model with a tokenizer."""
    fields = {"vocab_size": len(tokenizer()) + 3, "eos_token_id": tokenizer().eos_token_id, **fields}
    tiny_model(dtype=torch.float32, **fields).save_pretrained(path)
    tokenizer().save_pretrained(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and its file for each of `MODELS`, in float32, and for the other types one of rows of 32."""
    folder = tmp_path_factory.mktemp("gguf")
    for name, fields in MODELS.items():
        save_model(folder / name / "model", **fields)
        assert export(folder / name / "model", folder / name / "made", format="gguf") == 0.0
    save_model(folder / "types", intermediate_size=64, num_hidden_layers=1)
    for dtype in DTYPES:
        difference = export(folder / "types", folder / dtype, format="gguf", dtype=dtype)
        assert (difference > 0) == (dtype != "f32")
    return folder


def prompt() -> list[int]:
    return random_ids(LENGTH, vocab_size=len(tokenizer())).tolist()


@pytest.fixture(scope="module")
def answers(folder):
    """What llama.cpp says of each file."""
    find_llama_cpp()
    requests = [{"kind": "probabilities", "ids": prompt()}, {"kind": "generate", "ids": prompt(), "steps": STEPS}]
    files = {name: folder / name / "made" / "model.gguf" for name in MODELS}
    files |= {dtype: folder / dtype / "model.gguf" for dtype in DTYPES}
    return dict(zip(files, run_llama_cpp([(path, requests) for path in files.values()]), strict=True))


def table(pairs, size: int) -> torch.Tensor:
    """Probabilities of all tokens, (tokens before, `size`)."""
    rows = torch.full((len(pairs), size), torch.nan)
    for row, each in zip(rows, pairs, strict=True):
        ids, values = zip(*each, strict=True)
        row[list(ids)] = torch.tensor(values)
    return rows


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_the_same(name, folder, answers):
    """Every probability after each of 40 tokens, and the tokens of greedy decoding."""
    model = TrineForCausalLM.from_pretrained(folder / name / "model").eval()
    probabilities, made = answers[name]
    expected = model(torch.tensor([prompt()])).logits[0].softmax(dim=-1)
    torch.testing.assert_close(table(probabilities, expected.shape[1]), expected, rtol=1e-3, atol=1e-6)
    greedy = model.generate(torch.tensor([prompt()]), max_new_tokens=STEPS, do_sample=False, eos_token_id=None)
    assert made == greedy[0, LENGTH:].tolist()


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-5), ("f16", 5e-3), ("bf16", 5e-2), ("q8_0", 5e-2)])
def test_llama_cpp_runs_each_type(dtype, tolerance, folder, answers):
    """Near what transformers computes in float32 with the file's weights; llama.cpp multiplies in the file's type."""
    model = AutoModelForCausalLM.from_pretrained(folder / dtype, gguf_file="model.gguf", dtype=torch.float32).eval()
    expected = model(torch.tensor([prompt()])).logits[0].softmax(dim=-1)
    difference = (table(answers[dtype][0], expected.shape[1]) - expected).abs().max()
    assert difference <= tolerance


def read(path) -> dict:
    """The tensors of a file by name, as gguf's own reader has them."""
    return {tensor.name: tensor for tensor in GGUFReader(path).tensors}


@pytest.mark.parametrize("dtype", HALVES)
def test_matrices_are_rounded_to_the_nearest_and_vectors_are_kept(dtype, folder):
    stored, weights = read(folder / dtype / "model.gguf"), TrineForCausalLM.from_pretrained(folder / "types")
    state = weights.state_dict()
    matrix = stored["blk.0.ffn_down.weight"]
    expected = state["model.layers.0.mlp.down_proj.weight"].to(HALVES[dtype])
    assert matrix.tensor_type.name == dtype.upper()
    assert torch.equal(torch.from_numpy(dequantize(matrix.data, matrix.tensor_type)), expected.float())
    norm = stored["blk.0.attn_norm.weight"]
    assert norm.tensor_type.name == "F32"
    assert np.array_equal(norm.data, state["model.layers.0.input_layernorm.weight"])


def test_eight_bits_have_a_scale_for_32_numbers(folder):
    """Beside the formula in float64: of each 32 numbers, the largest becomes 127."""
    stored = read(folder / "q8_0" / "model.gguf")["blk.0.ffn_down.weight"]
    weights = TrineForCausalLM.from_pretrained(folder / "types").state_dict()["model.layers.0.mlp.down_proj.weight"]
    blocks = weights.double().unflatten(1, (-1, 32))
    scales = blocks.abs().amax(dim=2, keepdim=True) / 127
    expected = (blocks / scales).round() * scales.half().double()
    actual = torch.from_numpy(dequantize(stored.data, stored.tensor_type)).double().view_as(expected)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_the_same_weights(name, folder, tmp_path):
    """Its own reader of GGUF, and the conversion to its families, give models that are bit-equal."""
    convert(folder / name / "model", tmp_path / "other", to=FAMILIES[name])
    # Without the config it takes some sizes of Qwen3 for those of the published models.
    options = {"config": AutoConfig.from_pretrained(tmp_path / "other"), "dtype": torch.float32}
    loaded = AutoModelForCausalLM.from_pretrained(folder / name / "made", gguf_file="model.gguf", **options)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "other").state_dict()
    actual = loaded.state_dict()
    assert actual.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(actual[key], expected[key])] == []


def test_a_damaged_file_is_no_file(folder, tmp_path, monkeypatch):
    """What is read back is compared: a weight that was not written as it is, is found."""
    encode = gguf_export.encode
    monkeypatch.setattr(gguf_export, "encode", lambda written: encode(written._replace(values=written.values * 1.01)))
    with pytest.raises(ValueError, match=r"The tensor '\S+' read back from model.gguf differs by .* allows 0"):
        export(folder / "types", tmp_path / "made", format="gguf")
    assert not any(tmp_path.iterdir())
