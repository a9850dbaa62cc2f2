"""The experts of one token are visited one by one, with the results of the module, which takes over where it must."""

import pytest
import torch
from support.tiny import random_ids, tiny_model
from transformers.integrations import moe

from trine.modeling.feed_forward import experts as experts_module
from trine.modeling.feed_forward.one_token import visit_for_one
from trine.modeling.lean import TWINS


VARIANTS = {
    "gated": {},
    "plain": {"gated_mlp": False},
    "biases": {"mlp_bias": True},
    "scaled": {"routed_scaling_factor": 2.5, "router_type": "sigmoid"},
    "one expert": {"num_experts_per_tok": 1},
    "every expert": {"num_experts_per_tok": 4, "num_shared_experts": 1},
}


@pytest.fixture
def visits(monkeypatch):
    """Whether each call found a fast way."""
    found = []

    def visit(*arguments):
        output = visit_for_one(*arguments)
        found.append(output is not None)
        return output

    monkeypatch.setattr(experts_module, "FAST_VISITS", (visit,))
    return found


def sparse_model(**fields):
    return tiny_model(mlp_layer_types="sparse", **{"experts": "grouped_mm", "dtype": torch.float32, **fields})


@torch.no_grad()
@pytest.mark.parametrize("experts", ["eager", "grouped_mm"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_token_by_itself_is_as_in_a_text(variant, experts, visits):
    model, ids = sparse_model(experts=experts, **VARIANTS[variant]), random_ids(1, 9)
    expected = model(ids).logits
    assert not any(visits)
    cache = model(ids[:, :5], use_cache=True).past_key_values
    visits.clear()
    steps = [model(ids[:, n : n + 1], past_key_values=cache).logits for n in range(5, 9)]
    assert visits and all(visits)
    torch.testing.assert_close(torch.cat(steps, dim=1), expected[:, 5:], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_it_rounds_as_the_grouped_kernel(visits, monkeypatch):
    model, ids = sparse_model(), random_ids(1, 1)
    fast = model(ids).logits
    assert all(visits)
    monkeypatch.setattr(experts_module, "FAST_VISITS", ())
    assert torch.equal(model(ids).logits, fast)


@torch.no_grad()
def test_two_texts_and_another_kernel_are_computed_as_a_module(visits, monkeypatch):
    model = sparse_model()
    model(random_ids(2, 1))
    model.set_experts_implementation("batched_mm")
    called, kernel = [], moe.ALL_EXPERTS_FUNCTIONS["batched_mm"]
    count = lambda *arguments, **options: called.append(1) or kernel(*arguments, **options)  # noqa: E731
    monkeypatch.setitem(moe.ALL_EXPERTS_FUNCTIONS._global_mapping, "batched_mm", count)
    model(random_ids(1, 1))
    assert len(called) == model.config.num_hidden_layers
    assert visits and not any(visits)


def test_gradients_and_hooks_take_the_module(visits):
    model, ids = sparse_model(), random_ids(1, 1)
    model(ids).logits.sum().backward()
    assert model.model.layers[0].mlp.experts.down_proj.grad is not None
    seen = []
    model.model.layers[1].mlp.experts.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        model(ids)
    assert seen == [1] and visits[-len(model.model.layers) :].count(False) == 1


@torch.no_grad()
def test_experts_of_other_processes_are_left_to_the_module():
    model = sparse_model()
    model(random_ids(1, 1))
    experts = TWINS[model.model].module.layers[0].mlp.experts
    states, weights = torch.randn(1, model.config.hidden_size), torch.ones(1, 1)
    assert visit_for_one(experts, states, torch.tensor([[experts.num_experts]]), weights) is None
    assert visit_for_one(experts, states, torch.tensor([[0]]), weights) is not None
