"""Caches: windows of every size, what they hold, layers that are offloaded, and drafts by the first layers."""

import pytest
import torch
from support.tiny import random_ids, tiny_model
from support.translators import tiny_translator
from transformers import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.cache_utils import STATIC_LAYER_TYPE_MAPPING

from trine import TrineModel
from trine.configuration.kinds import ATTENTION_KINDS


PROMPT, LENGTH = 6, 11
WINDOWS = [
    ("sliding", "sliding_window"),
    ("chunked", "attention_chunk_size"),
    ("simplicial", "simplicial_window"),
    ("simplicial", "simplicial_second_window"),
    ("bigbird", "bigbird_block_size"),
    ("lsh", "lsh_chunk_length"),
]
MAKE_CACHE = {
    "dynamic": lambda config: DynamicCache(config=config),
    "static": lambda config: StaticCache(config=config, max_cache_len=LENGTH + 3),
    "without config": lambda config: DynamicCache(),
}
PARTS = {"steps": [PROMPT, *[1] * (LENGTH - PROMPT)], "chunks": [2, 4, 1, 3, 1]}
EVERY_KIND = pytest.mark.parametrize("kind", sorted(ATTENTION_KINDS))


@torch.no_grad()
def read_in_parts(model, ids, past, sizes) -> torch.Tensor:
    parts = ids.split(sizes, dim=1)
    return torch.cat([model(part, past_key_values=past, use_cache=True).logits for part in parts], dim=1)


def assert_equal(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("window", [1, 2, PROMPT - 1, PROMPT, PROMPT + 1])
@pytest.mark.parametrize(("kind", "field"), WINDOWS, ids=[field for _, field in WINDOWS])
def test_windows_of_every_size(kind, field, window):
    """Of one token too, which needs no other. Alone, and with another kind whose cache is of another length."""
    ids = random_ids(2, LENGTH)
    for kinds in (kind, f"full, {kind}"):
        model = tiny_model(attention_types=kinds, position_type="none", **{field: window})
        with torch.no_grad():
            expected = model(ids, use_cache=False).logits
        names = ["dynamic", "static", "without config"][: 3 if kind in ("sliding", "chunked", "bigbird") else 2]
        for attn in ("eager", "sdpa"):
            model.set_attn_implementation(attn)
            for name in names:
                for sizes in PARTS.values():
                    assert_equal(read_in_parts(model, ids, MAKE_CACHE[name](model.config), sizes), expected)


@pytest.mark.parametrize("kind", ["sliding", "chunked"])
@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"prompt_lookup_num_tokens": 3}, {"assistant_early_exit": 1}])
def test_a_window_of_one_is_reordered_and_cropped(settings, kind):
    fields = {"sliding_window": 1, "attention_chunk_size": 1}
    model = tiny_model(attn="sdpa", attention_types=f"{kind}, full", **fields)
    common = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    ids = random_ids(1, 5).repeat(1, 2)
    beams = {name: value for name, value in settings.items() if name == "num_beams"}
    expected = model.generate(ids, use_cache=False, **beams, **common)
    assert model.generate(ids, **settings, **common).tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["sliding", "chunked"])
def test_relative_positions_with_a_window_of_one(kind):
    fields = {"sliding_window": 1, "attention_chunk_size": 1, "position_type": "relative"}
    model, ids = tiny_model(attention_types=f"{kind}, full", **fields), random_ids(2, LENGTH)
    expected = model(ids, use_cache=False).logits
    for attn in ("eager", "sdpa"):
        model.set_attn_implementation(attn)
        for make in MAKE_CACHE.values():
            assert_equal(read_in_parts(model, ids, make(model.config), PARTS["steps"]), expected)


class Offloaded(DynamicCache):
    """Takes a layer's tensors away after each pass and brings them back before the next, as offloading does."""

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        layer = self.layers[layer_idx]
        for name, states in getattr(layer, "elsewhere", {}).items():
            setattr(layer, name, states)
        result = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        layer.offload()
        named = {name: getattr(layer, name) for name in getattr(layer, "names", ("keys", "values"))}
        layer.elsewhere = {name: states for name, states in named.items() if states is not None}
        for name, states in layer.elsewhere.items():
            setattr(layer, name, torch.full_like(states, 10**6))
        return result


@EVERY_KIND
def test_a_layer_may_be_offloaded_after_each_pass(kind):
    model, ids = tiny_model(attn="sdpa", attention_types=kind), random_ids(2, LENGTH)
    expected = model(ids, use_cache=False).logits
    assert_equal(read_in_parts(model, ids, Offloaded(config=model.config), PARTS["steps"]), expected)


@EVERY_KIND
@pytest.mark.parametrize("make", [tiny_model, tiny_translator], ids=["decoder", "encoder-decoder"])
def test_a_model_says_whether_its_static_cache_compiles(make, kind):
    """As its cache does: the library drops masks, and compiles steps, by what that says."""
    model = make(attention_types=f"full, {kind}", num_hidden_layers=2)
    config = model.config.get_text_config(decoder=True)
    cache = StaticCache(config=config, max_cache_len=8)
    assert model._can_compile_fullgraph == cache.is_compileable
    assert model._can_compile_fullgraph == STATIC_LAYER_TYPE_MAPPING[ATTENTION_KINDS[kind].layer_type].is_compileable
    assert model._can_compile_fullgraph or kind not in ("full", "sliding", "chunked")


def test_a_static_cache_of_the_source_may_have_room_left():
    model, source, target = tiny_translator(), random_ids(2, 5), random_ids(2, 7)
    past = EncoderDecoderCache(*(StaticCache(config=model.config, max_cache_len=9) for _ in range(2)))
    with torch.no_grad():
        expected = model(source, decoder_input_ids=target, use_cache=False).logits
        parts = target.split([4, 1, 1, 1], dim=1)
        logits = [model(source, decoder_input_ids=part, past_key_values=past).logits for part in parts]
    assert_equal(torch.cat(logits, dim=1), expected)


# Drafts


def draft(model, ids, **settings):
    common = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True}
    return model.generate(ids, output_logits=True, **common, **settings)


@EVERY_KIND
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_drafts_of_the_first_layers_change_nothing(attn, kind):
    model, ids = tiny_model(attn=attn, attention_types=[kind, "full", kind], num_hidden_layers=3), random_ids(1, 9)
    expected = draft(model, ids, use_cache=False)
    runs = []
    for index in (0, 1):
        model.model.layers[index].register_forward_pre_hook(lambda *args, index=index: runs.append(index))
    for layers in (1, 2, 3):
        runs.clear()
        actual = draft(model, ids, assistant_early_exit=layers)
        assert actual.sequences.tolist() == expected.sequences.tolist()
        for step, other in zip(actual.logits, expected.logits, strict=True):
            torch.testing.assert_close(step, other, rtol=1e-6, atol=1e-6)
        assert (runs.count(0) > runs.count(1) > 0) == (layers == 1), "drafts of one layer do not run the second"
        assert model.config.num_hidden_layers == 3


def test_an_error_in_a_draft_leaves_the_config_alone():
    model = tiny_model(num_hidden_layers=3)

    def fail(module, args):
        if model.config.num_hidden_layers == 1:
            raise RuntimeError("in the draft")

    model.model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the draft"):
        draft(model, random_ids(1, 9), assistant_early_exit=1)
    assert model.config.num_hidden_layers == 3 and len(model.config.layer_types) == 3


def test_sparse_layers_draft_with_router_logits():
    model = tiny_model(mlp_layer_types="sparse", output_router_logits=True, num_hidden_layers=3)
    expected = draft(model, random_ids(1, 9), use_cache=False)
    assert draft(model, random_ids(1, 9), assistant_early_exit=1).sequences.tolist() == expected.sequences.tolist()


@EVERY_KIND
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_drafts_with_attentions_where_layers_may_have_none(attn, kind):
    """One tuple a token, or none at all, as the library gives where no layer has weights."""
    ids = random_ids(1, 5).repeat(1, 2)
    for kinds in (kind, f"full, {kind}", f"{kind}, full"):
        model = tiny_model(attn=attn, attention_types=kinds)
        weights = model(ids, output_attentions=True).attentions
        for settings in ({"prompt_lookup_num_tokens": 3}, {"assistant_early_exit": 1}):
            outputs = draft(model, ids, output_attentions=True, **settings)
            assert outputs.sequences.tolist() == draft(model, ids, use_cache=False).sequences.tolist()
            assert [len(step) for step in outputs.attentions] == ([len(weights)] * 10 if weights else [])
        assert model(ids, output_attentions=True).attentions is not None  # the hook of drafts is gone


def test_an_encoder_decoder_drafts_with_attentions():
    for attn in ("eager", "sdpa"):
        model = tiny_translator(attn=attn, attention_types="linear, full", num_hidden_layers=2)
        settings = {"output_attentions": True, "prompt_lookup_num_tokens": 3, "eos_token_id": None}
        outputs = draft(model, random_ids(1, 9), **settings)
        assert [len(step) for step in outputs.cross_attentions] == [2 if attn == "eager" else 0] * 10


def test_an_encoder_needs_no_static_cache():
    assert TrineModel(tiny_model(is_causal=False).config)._can_compile_fullgraph
