"""Generation with each kind of layer, attention, cache and shape, in each way: what decoding without a cache gives."""

from functools import cache

import pytest
import torch
from support.tiny import random_ids, tiny_model
from support.translators import pad_rows, tiny_translator
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

from trine.configuration.kinds import ATTENTION_KINDS


# Small enough that windows roll, chunks begin, and blocks and buckets fill within a few tokens.
SMALL = {
    "sliding_window": 4,
    "attention_chunk_size": 4,
    "simplicial_window": 4,
    "bigbird_block_size": 2,
    "bigbird_num_global_blocks": 1,
    "bigbird_num_window_blocks": 1,
    "lsh_chunk_length": 2,
}
OTHERS = sorted(ATTENTION_KINDS.keys() - {"full"})
KINDS = ["full", *OTHERS, *(f"full, {kind}" for kind in OTHERS)]
SHAPES, CACHES = ["decoder", "encoder-decoder"], ["dynamic", "static"]
# `eager` or `sdpa` computes what kinds with scores of pairs see, and nothing else: alone they run with both.
ATTENTIONS = {kinds: ["sdpa"] for kinds in KINDS} | {
    kind: ["eager", "sdpa"] for kind, row in ATTENTION_KINDS.items() if row.has_pair_scores
}
PROMPT, NEW_TOKENS = 7, 6
MODES: dict[str, dict] = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 2.0},
    "beams": {"num_beams": 2},
    "left padding": {},
    "chunked prefill": {"prefill_chunk_size": 3},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "assisted": {},
}
DRAFTED = ["lookup", "assisted"]  # one text at a time, and with caches that can be cropped
TOLERANCES = {"rtol": 1e-6, "atol": 1e-6, "check_dtype": False}


@cache
def model_of(kinds: str, shape: str):
    """In float64, and with logits far apart, so that rounding decides no token."""
    if shape == "decoder":
        return tiny_model(attention_types=kinds, **SMALL)
    return tiny_translator(attention_types=kinds, num_hidden_layers=2, **SMALL)


@cache
def assistant_of(kinds: str, shape: str):
    """The model with noise: most of its guesses are kept, the others are taken back."""
    make = {"decoder": tiny_model, "encoder-decoder": tiny_translator}[shape]
    assistant = make(attention_types=kinds, num_hidden_layers=2, **SMALL)
    with torch.no_grad():
        for index, parameter in enumerate(assistant.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
            parameter.add_(noise, alpha=0.05)
    assistant.generation_config.num_assistant_tokens = 3
    assistant.generation_config.assistant_confidence_threshold = 0.0
    return assistant


def inputs_for(mode: str, shape: str) -> dict[str, torch.Tensor]:
    rows = [random_ids(PROMPT, seed=1), random_ids(PROMPT, seed=2)][: 1 if mode in DRAFTED else 2]
    short = rows if mode != "left padding" else [rows[0], rows[1][:3]]
    if mode == "lookup":
        rows = short = [torch.cat([rows[0], rows[0][:4]])]
    if shape == "decoder":
        return pad_rows(short, "left")
    return {**pad_rows(short, "left"), "decoder_input_ids": torch.stack(rows)}


def generate(model, mode: str, shape: str, **settings):
    """There is no end token: every run has full length."""
    torch.manual_seed(0)
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": NEW_TOKENS, **settings}
    inputs = inputs_for(mode, shape)
    return model.generate(**inputs, output_logits=True, return_dict_in_generate=True, **settings)


@cache
def uncached(kinds: str, shape: str, mode: str):
    """Every token is computed from the whole text, by the attention that is written out."""
    if mode == "chunked prefill":  # without a cache nothing is prefilled
        return uncached(kinds, shape, "greedy")
    model = model_of(kinds, shape)
    model.set_attn_implementation("eager")
    own = {} if mode in DRAFTED else MODES[mode]
    return generate(model, mode, shape, use_cache=False, **own)


def plan() -> list[tuple[str, str, str, str, str]]:
    return [
        (kinds, shape, attn, cache_name, mode)
        for kinds in KINDS
        for shape in SHAPES
        for attn in ATTENTIONS[kinds]
        for cache_name in CACHES
        for mode in MODES
        if not (cache_name == "static" and mode in DRAFTED)
    ]


@pytest.mark.parametrize(("kinds", "shape", "attn", "cache_name", "mode"), plan())
def test_cached_equals_uncached(kinds, shape, attn, cache_name, mode):
    expected = uncached(kinds, shape, mode)
    model = model_of(kinds, shape)
    model.set_attn_implementation(attn)
    settings = {**MODES[mode]}
    if cache_name == "static":
        settings["cache_implementation"] = "static"
    if mode == "assisted":
        settings["assistant_model"] = assistant_of(kinds, shape)
    actual = generate(model, mode, shape, **settings)
    self_cache = getattr(actual.past_key_values, "self_attention_cache", actual.past_key_values)
    assert type(self_cache) is (StaticCache if cache_name == "static" else DynamicCache)
    assert actual.sequences.tolist() == expected.sequences.tolist()
    for step, other in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(step, other, **TOLERANCES)


@pytest.mark.parametrize("cache_name", CACHES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kinds", "attn"), [(kinds, attn) for kinds in KINDS for attn in ATTENTIONS[kinds]])
def test_a_forward_loop_equals_one_pass(kinds, shape, attn, cache_name):
    """A prompt, a few tokens at once, then single ones, with room left in the static cache."""
    model = model_of(kinds, shape)
    config, ids = model.config, random_ids(2, PROMPT + NEW_TOKENS)
    past = StaticCache(config=config, max_cache_len=20) if cache_name == "static" else DynamicCache(config=config)
    source, read = {}, "input_ids"
    if shape == "encoder-decoder":
        past, read, source = EncoderDecoderCache(past, DynamicCache()), "decoder_input_ids", pad_rows([ids[0, :5]] * 2)
    with torch.no_grad():
        model.set_attn_implementation("eager")
        expected = model(**source, **{read: ids}, use_cache=False).logits
        model.set_attn_implementation(attn)
        parts = ids.split([PROMPT, 2, *[1] * (NEW_TOKENS - 2)], dim=1)
        logits = [model(**source, **{read: part}, past_key_values=past, use_cache=True).logits for part in parts]
    torch.testing.assert_close(torch.cat(logits, dim=1), expected, **TOLERANCES)
