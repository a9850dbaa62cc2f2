"""The examples of the documentation: each equals its formula, trains, generates, and goes along with a checkpoint."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import forks, remote_process
from support.plugins import tables_restored
from support.random_outputs import outputs_of
from support.tiny import output_of, random_ids, tiny_config, tiny_model
from torch.nn.functional import normalize
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.diffllama.configuration_diffllama import DiffLlamaConfig
from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention
from transformers.models.qwen3_next import modeling_qwen3_next

from trine import TrineForCausalLM, load_plugin


FOLDER = Path(__file__).parents[2] / "docs" / "examples"
LENGTH = 13
EXAMPLES = {
    "sigmoid_attention": {"attention_types": "sigmoid, full", "sigmoid_bias": -1.5},
    "differential_attention": {"attention_types": "differential"},
    "gated_delta": {"attention_types": "gated_delta, full", "position_type": "none", "gated_delta_chunk_size": 4},
    "alibi": {"position_type": "alibi", "attention_types": "full, sliding"},
    "cosine_router": {"mlp_layer_types": "sparse", "router_type": "cosine", "cosine_size": 8},
}
MODELS = [(name, True) for name in EXAMPLES] + [(name, False) for name in EXAMPLES if name != "gated_delta"]


@pytest.fixture(scope="module", autouse=True)
def modules():
    """The files, loaded as `--plugin` does; the tables forget them at the end."""
    with tables_restored():
        yield {name: load_plugin(FOLDER / f"{name}.py") for name in EXAMPLES}
        for name in EXAMPLES:
            del sys.modules[name]


def example_model(name: str, is_causal: bool = True, **options):
    return tiny_model(is_causal=is_causal, **EXAMPLES[name], **options)


def test_every_example_is_tested_and_shown():
    assert {file.stem for file in FOLDER.glob("*.py")} == EXAMPLES.keys()
    shown = (FOLDER.parent / "how-to" / "mechanism-examples.md").read_text(encoding="utf-8")
    assert all(f"<!-- file: examples/{name}.py -->" in shown for name in EXAMPLES if name != "sigmoid_attention")
    whole = (FOLDER / "sigmoid_attention.py").read_text(encoding="utf-8")
    assert f"\n{whole}```" in (FOLDER.parent / "how-to" / "own-mechanism.md").read_text(encoding="utf-8")
    assert len(whole.splitlines()) <= 40


@pytest.mark.parametrize("name, is_causal", MODELS)
def test_padding_packing_and_later_tokens_change_nothing(name, is_causal):
    model = example_model(name, is_causal, scale=2.0)
    ids, close = random_ids(2, LENGTH), {"rtol": 1e-9, "atol": 1e-11}
    expected = output_of(model(ids, use_cache=False))
    mask = torch.ones(2, LENGTH + 3, dtype=torch.long)
    mask[:, :3] = 0
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], dim=1)
    torch.testing.assert_close(output_of(model(padded, attention_mask=mask))[:, 3:], expected, **close)
    right = output_of(model(padded.roll(-3, dims=1), attention_mask=mask.flip(1)))[:, :LENGTH]
    torch.testing.assert_close(right, expected, **close)
    positions = torch.arange(LENGTH).repeat(2)[None]
    packed = output_of(model(ids.view(1, -1), position_ids=positions, use_cache=False))
    torch.testing.assert_close(packed.view_as(expected), expected, **close)
    if is_causal:
        changed = ids.clone()
        changed[:, 7] += 1
        earlier = output_of(model(changed, use_cache=False))[:, :7]
        # An expert multiplies all of its tokens at once: rounding depends on how many there are.
        tolerances = close if name == "cosine_router" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(earlier, expected[:, :7], **tolerances)
        start = model(ids[:, :6], use_cache=True)
        rest = output_of(model(ids[:, 6:], past_key_values=start.past_key_values))
        torch.testing.assert_close(torch.cat([output_of(start), rest], dim=1), expected, **close)


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_trains_and_generates(name):
    torch.manual_seed(0)
    model = TrineForCausalLM(tiny_config(**EXAMPLES[name], experts_implementation="eager"))
    ids = random_ids(4, LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    losses = []
    for _ in range(25):
        loss = model(ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 2
    model.double().eval()
    greedy = {"max_new_tokens": 6, "do_sample": False}
    expected = model.generate(ids[:, :5], use_cache=False, **greedy)
    for way in ({}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(ids[:, :5], **greedy, **way), expected), way
    beams = {"num_beams": 3, **greedy}
    expected = model.generate(ids[:, :5], use_cache=False, **beams)
    assert torch.equal(model.generate(ids[:, :5], **beams), expected)


def test_a_process_without_trine_computes_the_same(tmp_path, monkeypatch):
    jobs = []
    for name in EXAMPLES:
        folder = tmp_path / name
        example_model(name, scale=2.0).save_pretrained(folder)
        assert (folder / f"{name}.py").exists()
        save_file({"input_ids": random_ids(2, LENGTH)}, folder / "inputs.safetensors")
        jobs.append({"folder": str(folder), "auto_class": "AutoModelForCausalLM", "writes": True})
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    result = forks.run([remote_process.__file__, str(tmp_path / "jobs.json")], tmp_path)
    assert result.returncode == 0, result.stderr
    for name in EXAMPLES:
        folder = tmp_path / name
        error = folder / "error.txt"
        assert not error.exists(), error.read_text()
        model = TrineForCausalLM.from_pretrained(folder, experts_implementation="eager")
        actual = load_file(folder / "outputs.safetensors")
        for key, expected in outputs_of(model.eval(), load_file(folder / "inputs.safetensors"), True).items():
            assert torch.equal(actual[key], expected), (name, key)


def layer_of(name: str, layer: int = 0, **options):
    return example_model(name, **options).model.layers[layer].self_attn


def random_tensors(count: int, *shape: int) -> list[torch.Tensor]:
    return [torch.randn(*shape, dtype=torch.float64) for _ in range(count)]


def test_sigmoid_attention_equals_its_formula():
    layer = layer_of("sigmoid_attention")
    query, key, value = random_tensors(3, 1, 4, 5, 8)
    actual, _ = layer.mix(query, key, value, torch.ones(5, 5, dtype=torch.bool).tril()[None, None])
    for head, bias, log_temperature in zip(range(4), layer.bias.view(-1), layer.log_temperature.view(-1), strict=True):
        for i in range(5):
            expected = torch.zeros(8, dtype=torch.float64)
            for j in range(i + 1):
                score = query[0, head, i] @ key[0, head, j] / 8**0.5 / log_temperature.exp() + bias
                expected += value[0, head, j] / (1 + (-score).exp())
            torch.testing.assert_close(actual[0, head, i], expected)


def test_differential_attention_equals_that_of_transformers():
    sizes = {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 4}
    layer = layer_of("differential_attention", 3, **sizes)
    torch.nn.init.ones_(layer.head_norm.weight)  # transformers' has none
    config = DiffLlamaConfig(**sizes, rms_norm_eps=layer.config.norm_eps, attn_implementation="eager")
    other = DiffLlamaAttention(config, layer_idx=3).double().eval()
    weights = {name: value for name, value in layer.state_dict().items() if "_proj" in name}
    names = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
    other.load_state_dict(weights | dict(zip(names, layer.lambda_vectors, strict=True)))
    (hidden_states,) = random_tensors(1, 2, LENGTH, 32)
    visible = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[None, None]
    added = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, torch.finfo(torch.float64).min)
    unrotated = (torch.ones(1, LENGTH, 4, dtype=torch.float64), torch.zeros(1, LENGTH, 4, dtype=torch.float64))
    expected, _ = other(hidden_states, unrotated, added)
    visibility = SimpleNamespace(mask=visible, lengths=None)
    torch.testing.assert_close(layer(hidden_states, visibility)[0], expected)


def test_differential_attention_needs_pairs_of_heads():
    with pytest.raises(ValueError, match="num_key_value_heads=1 must be even"):
        tiny_config(attention_types="differential", num_key_value_heads=1)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 13])
@pytest.mark.parametrize("has_state", [False, True])
def test_the_gated_delta_rule_equals_that_of_transformers(length, has_state, monkeypatch):
    class Double:  # transformers computes in float32, whatever it is given
        float32 = torch.float64
        __getattr__ = staticmethod(lambda name: getattr(torch, name))

    monkeypatch.setattr(modeling_qwen3_next, "torch", Double())
    layer = layer_of("gated_delta")
    query, key, value = random_tensors(3, 2, 4, length, 8)
    query, key = normalize(query, dim=-1), normalize(key, dim=-1)
    log_decay, step = (torch.rand(2, 4, length, dtype=torch.float64) for _ in range(2))
    log_decay = -3 * log_decay
    state = random_tensors(1, 2, 4, 8, 8)[0] if has_state else None
    actual, (memory,) = layer.scan(
        None if state is None else (state,), query * layer.scaling, key, value, log_decay, step
    )
    given = [tensor.transpose(1, 2) for tensor in (query, key, value, log_decay, step)]
    options = {"initial_state": state, "output_final_state": True}
    for rule in ("torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"):
        expected, last = getattr(modeling_qwen3_next, rule)(*given, **options)
        assert expected.dtype == torch.float64
        torch.testing.assert_close(actual.transpose(1, 2), expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(memory, last, rtol=1e-10, atol=1e-12)


def test_a_decay_that_forgets_everything_gives_numbers():
    layer = layer_of("gated_delta").float()
    query, key, value = (tensor.float().requires_grad_() for tensor in random_tensors(3, 1, 4, 9, 8))
    log_decay = torch.full((1, 4, 9), -200.0, requires_grad=True)
    output, _ = layer.scan(None, query, normalize(key, dim=-1), value, log_decay, torch.ones(1, 4, 9))
    output.sum().backward()
    for tensor in (output, query.grad, key.grad, value.grad, log_decay.grad):
        assert tensor is not None and tensor.isfinite().all()


@pytest.mark.parametrize("heads", [1, 4, 6, 12])
def test_alibi_equals_that_of_transformers(modules, heads):
    encoding = modules["alibi"].AlibiEncoding(
        tiny_config(num_attention_heads=heads, head_dim=8, num_key_value_heads=1)
    )
    places = torch.arange(LENGTH)
    bias = encoding.bias(places, places)[0]
    # transformers' bias is a number for each key. It differs for each query by what softmax does not see.
    expected = build_alibi_tensor(torch.ones(1, LENGTH), heads, torch.float32)
    past = torch.ones(LENGTH, LENGTH).tril().bool()
    torch.testing.assert_close((bias - bias[:, :, :1])[:, past], expected.expand(-1, LENGTH, -1)[:, past])
    assert torch.equal(bias, bias.transpose(1, 2))


def test_the_cosine_router_equals_its_formula():
    router = example_model("cosine_router").model.layers[0].mlp.gate
    (tokens,) = random_tensors(1, 5, 32)
    logits, weights, chosen = router(tokens)
    for token, row, weight, index in zip(tokens, logits, weights, chosen, strict=True):
        features = router.proj.weight @ token
        cosines = [(features @ e) / (features @ features).sqrt() / (e @ e).sqrt() for e in router.weight]
        expected = torch.stack(cosines) / router.log_temperature.exp()
        torch.testing.assert_close(row, expected)
        best = expected.exp().topk(2)
        assert torch.equal(index, best.indices)
        torch.testing.assert_close(weight, best.values / best.values.sum())
