"""Steps of decoding: how many operators, none of which waits for the device, and where a static cache writes."""

from collections import Counter
from functools import partial

import pytest
import torch
from support.tiny import random_ids, tiny_model
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CompileConfig, DynamicCache, StaticCache

from trine.configuration.kinds import ATTENTION_KINDS
from trine.modeling.checks import ids as ids_module


KINDS = sorted(ATTENTION_KINDS)
STATES = ["bigbird", "linear", "lsh", "performer", "simplicial"]
# Of these an accelerator has to be waited for: their result is a number, or a shape, on the host.
WAITING = {"_local_scalar_dense", "nonzero", "equal", "unique", "_unique2", "is_nonzero", "masked_select"}
VIEWS = {
    *("view", "_unsafe_view", "transpose", "t", "slice", "split", "split_with_sizes", "select", "alias", "detach"),
    *("unsqueeze", "squeeze", "expand", "unbind", "permute"),
}
# Full attention joins keys, joins values, and calls one kernel. In place of these linear attention has two operators
# for the features, two that add to the sums, two products with them, a guard, and a division; and a few more views.
FULL_NEEDS, LINEAR_NEEDS, LINEAR_VIEWS = 3, 8, 3


class Operators(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def operators_of(run) -> Counter:
    with Operators() as operators:
        run()
    return operators.counts


@torch.no_grad()
def step_of(kind, part=lambda model: model, **fields):
    """The operators of `part` of a model in its second step after a prompt; the first may prepare something."""
    model, ids = tiny_model(attention_types=kind, dtype=torch.float32, **fields), random_ids(1, 12)
    cache, calls = DynamicCache(config=model.config), []
    model(ids, past_key_values=cache)
    module = part(model)
    hook = module.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    for place in (0, 1):
        model(ids[:, [place]], past_key_values=cache)
    hook.remove()
    args, kwargs = calls[-1]
    return operators_of(partial(module, *args, **kwargs))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_waits_for_nothing(kind, monkeypatch):
    monkeypatch.setattr(ids_module, "can_look", lambda values: False)  # as on an accelerator
    assert not WAITING & step_of(kind).keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_waits_for_nothing(kind, monkeypatch):
    """But for transformers' own look for packed texts, where it makes the mask of pairs, as for its own models."""
    monkeypatch.setattr(ids_module, "can_look", lambda values: False)
    model, ids = tiny_model(attention_types=kind, dtype=torch.float32).train(), random_ids(2, 20)
    found = operators_of(lambda: model(ids, labels=ids).loss.backward())
    waits = sum(found[name] for name in WAITING)
    assert waits <= (1 if kind in ("full", "sliding") else 0)


def test_a_step_of_linear_attention_is_that_of_full_attention_but_for_what_it_computes():
    counts = {}
    for kind in ("full", "linear"):
        found = step_of(kind, lambda model: model.model.layers[1], num_key_value_heads=4)
        counts[kind] = sum(found.values()), sum(count for name, count in found.items() if name not in VIEWS)
    more = LINEAR_NEEDS - FULL_NEEDS
    assert counts["linear"][1] <= counts["full"][1] + more, counts
    assert counts["linear"][0] <= counts["full"][0] + more + LINEAR_VIEWS, counts


# Static caches


def tensors_of(layer) -> list[torch.Tensor]:
    named = [getattr(layer, name) for name in layer.names]
    return [states for states in (*named, layer.cumulative_length) if states is not None]


@torch.no_grad()
@pytest.mark.parametrize("kind", STATES)
def test_a_static_cache_stays_where_it_is(kind):
    """Whatever happens to it: steps, several tokens, other orders of its rows."""
    model, ids = tiny_model(attention_types=kind), random_ids(2, 20)
    cache = StaticCache(config=model.config, max_cache_len=24)
    assert cache.is_compileable and not DynamicCache(config=model.config).is_compileable
    model(ids[:, :7], past_key_values=cache)
    places = [[states.data_ptr() for states in tensors_of(layer)] for layer in cache.layers]
    rows, found = torch.tensor([1, 0]), []
    for part in ids[:, 7:].split([1, 1, 3, 1, 1, *[1] * 6], dim=1):
        found.append(model(part, past_key_values=cache).logits)
        cache.reorder_cache(rows)
        cache.reorder_cache(rows)
    assert [[states.data_ptr() for states in tensors_of(layer)] for layer in cache.layers] == places
    expected = model(ids, use_cache=False).logits[:, 7:]
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-8, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("kind", STATES)
def test_a_static_cache_is_cropped_as_another(kind):
    """What it keeps to go back is not overwritten by later steps."""
    model, ids = tiny_model(attention_types=kind), random_ids(2, 20)
    cache = StaticCache(config=model.config, max_cache_len=24)
    model(ids[:, :7], past_key_values=cache)
    for layer in cache.layers:
        layer.activate_past_recording()
    for place in (7, 9):
        for token in (ids[:, [place]], ids[:, [place + 1]], *random_ids(2, 3, seed=place).split(1, dim=1)):
            model(token, past_key_values=cache)
        for layer in cache.layers:
            layer.crop(-3)
    found = [model(token, past_key_values=cache).logits for token in ids[:, 11:].split(1, dim=1)]
    expected = model(ids, use_cache=False).logits[:, 11:]
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", STATES)
def test_generation_compiles_one_step_for_all_tokens(kind):
    model, ids = tiny_model(attention_types=kind, num_hidden_layers=1, dtype=torch.float32), random_ids(2, 7)
    settings = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(ids, use_cache=False, **settings)
    torch.compiler.reset()
    counters.clear()
    compile_config = CompileConfig(backend="eager", fullgraph=True, mode=None)
    compile_config._compile_all_devices = True
    found = model.generate(ids, cache_implementation="static", compile_config=compile_config, **settings)
    assert found.tolist() == expected.tolist()
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
