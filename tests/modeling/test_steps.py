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
# for the features, two that add to the sums, two products with them, a guard, and a division; and a few more views, as
# queries and keys are cut out of one tensor by slices, which cost less than `split` does.
FULL_NEEDS, LINEAR_NEEDS, LINEAR_VIEWS = 3, 8, 5


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


SETTINGS = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.mark.parametrize("kind", [*STATES, "full"])
def test_generation_compiles_one_step_for_all_tokens(kind):
    model, ids = tiny_model(attention_types=kind, num_hidden_layers=1, dtype=torch.float32), random_ids(2, 7)
    expected = model.generate(ids, use_cache=False, **SETTINGS)
    torch.compiler.reset()
    counters.clear()
    found = model.generate(ids, **compiled_settings())
    assert found.tolist() == expected.tolist()
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


def padded(ids: torch.Tensor, count: int) -> torch.Tensor:
    """A mask that hides the first tokens of the first text."""
    mask = torch.ones_like(ids)
    mask[0, :count] = 0
    return mask


ASKED = {
    "nothing": {},
    "a mask that hides nothing": {"attention_mask": padded(random_ids(2, 7), 0)},
    "padding": {"attention_mask": padded(random_ids(2, 7), 3)},
    "positions": {"position_ids": torch.arange(7)[None] + torch.tensor([[0], [5]])},
    "beams": {"num_beams": 3},
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_static_cache_is_told_in_each_step_what_it_does_not_know(kind, asked):
    """Masks and positions where there are windows, padding, or positions of one's own; else the token alone."""
    model, ids, given = tiny_model(attention_types=[kind, "full"], num_hidden_layers=2), random_ids(2, 7), []
    expected = model.generate(ids, use_cache=False, **ASKED[asked], **SETTINGS)
    model.register_forward_pre_hook(lambda module, args, kwargs: given.append(kwargs), with_kwargs=True)
    found = model.generate(ids, cache_implementation="static", **ASKED[asked], **SETTINGS)
    assert found.tolist() == expected.tolist()
    told = {name for call in given[1:] for name in ("attention_mask", "position_ids") if call.get(name) is not None}
    knows = asked not in ("padding", "positions") and kind not in ("sliding", "chunked")
    assert len(given) == SETTINGS["max_new_tokens"] and told == (
        set() if knows else {"attention_mask", "position_ids"}
    )


def test_compiled_code_compares_no_tuple_of_a_norm():
    """With a tuple among what it reads, PyTorch compares each module around it by itself, at each step."""
    norm = tiny_model(attention_types="full", dtype=torch.float32).model.layers[0].input_layernorm
    names = []

    def collect(guards):
        names.extend(guard.name for guard in guards)
        return [True] * len(guards)

    torch.compiler.reset()
    call = torch.compile(lambda module, states: module(states), backend="eager", options={"guard_filter_fn": collect})
    call(norm, torch.ones(1, 1, norm.weight.numel()))
    assert any("weight" in name for name in names) and not any("normalized_shape" in name for name in names)


def compiled_settings() -> dict:
    compile_config = CompileConfig(backend="eager", fullgraph=True, mode=None)
    compile_config._compile_all_devices = True
    return {**SETTINGS, "cache_implementation": "static", "compile_config": compile_config}


def graphs_of(run) -> int:
    counters.clear()
    run()
    return counters["stats"]["unique_graphs"]


CHANGES = {
    "dtype": lambda model: model.to(torch.float64),
    "weight": lambda model: setattr(
        model.model.layers[0].mlp, "up_proj", torch.nn.Linear(32, 40, dtype=torch.float64)
    ),
    "attribute": lambda model: setattr(model.model.layers[0].self_attn, "scaling", 0.5),
    "hook": lambda model: model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: 2 * output),
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_changes_is_compiled_anew(change):
    """What it is made of is compared once a text, not in each step; where there is a hook, PyTorch compares."""
    dtype = torch.float32 if change == "dtype" else torch.float64
    models = [tiny_model(attention_types="full", num_hidden_layers=1, dtype=dtype, seed=seed) for seed in (0, 1)]
    ids, settings = random_ids(2, 7), compiled_settings()
    torch.compiler.reset()
    for model in models:
        assert graphs_of(lambda model=model: model.generate(ids, **settings)) == 1
        assert graphs_of(lambda model=model: model.generate(ids + 1, **settings)) == 0
    model = models[0]
    before = model.generate(ids, use_cache=False, **SETTINGS)
    CHANGES[change](model)
    expected = model.generate(ids, use_cache=False, **SETTINGS)
    found = []
    assert graphs_of(lambda: found.append(model.generate(ids, **settings))) == 1
    assert found[0].tolist() == expected.tolist()
    assert change == "dtype" or expected.tolist() != before.tolist()
    other = models[1].generate(ids, **settings)
    assert other.tolist() == models[1].generate(ids, use_cache=False, **SETTINGS).tolist()
