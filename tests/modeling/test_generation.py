"""Every way of generating gives the same tokens and logits with a cache as without, for every kind of layer."""

from functools import cache

import pytest
import torch
from support.tiny import GPT2, MIXED, SPARSE, random_ids, tiny_model

from trine.configuration.kinds import ATTENTION_KINDS, POSITION_KINDS


MODELS = {
    **{kind: {"attention_types": kind} for kind in sorted(ATTENTION_KINDS)},
    **{position: {"position_type": position, **MIXED} for position in sorted(POSITION_KINDS)},
    "gpt2": {**GPT2, **MIXED},
    "post_norm": {"norm_position": "post", "qk_norm": True, "num_key_value_heads": 1, **MIXED},
    "different_windows": {"sliding_window": 5, "attention_chunk_size": 7, **MIXED},
    "sparse": {**SPARSE, **MIXED},
    "sigmoid": {"router_type": "sigmoid", "mlp_layer_types": "dense, sparse", **MIXED},
}
MODES = {
    "greedy": {},
    "no_repeats": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3, "min_new_tokens": 5},
    "temperature": {"do_sample": True, "temperature": 1.5},
    "top_k": {"do_sample": True, "temperature": 2.0, "top_k": 7},
    "top_p": {"do_sample": True, "temperature": 3.0, "top_p": 0.9},
    "min_p": {"do_sample": True, "temperature": 3.0, "min_p": 0.05},
    "typical": {"do_sample": True, "temperature": 3.0, "typical_p": 0.8},
    "epsilon": {"do_sample": True, "temperature": 3.0, "epsilon_cutoff": 0.01},
    "several": {"do_sample": True, "temperature": 3.0, "num_return_sequences": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
    "beam_sampling": {"num_beams": 3, "do_sample": True, "temperature": 2.0},
}
# These only change how the distribution is drawn from, so one model of every kind of layer tells enough.
SAMPLING = [mode for mode in MODES if mode not in ("greedy", "temperature", "beams", "beam_sampling")]
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)
# tests/modeling/test_generation_matrix.py decodes with each kind alone, in each of these ways.
MIXTURES = [name for name in MODELS if name not in ATTENTION_KINDS]
EVERY_MIXTURE = pytest.mark.parametrize("name", MIXTURES)
NEW_TOKENS = 14  # with a prompt of 11, windows of 8 roll and chunks of 8 begin twice
TOLERANCES = {"rtol": 1e-6, "atol": 1e-6}


def model_for(name: str, attn: str = "sdpa"):
    """In float64, and with logits far apart, so that rounding decides no token."""
    return tiny_model(attn=attn, **MODELS[name])


def generate(model, ids, seed: int = 0, **settings):
    """Sequences, the raw logits of each step, and the cache. There is no end token: every run has full length."""
    torch.manual_seed(seed)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "top_k": None, "pad_token_id": 0, **settings}
    return model.generate(ids, output_logits=True, return_dict_in_generate=True, **settings)


def assert_same(actual, expected) -> None:
    assert actual.sequences.tolist() == expected.sequences.tolist()
    for step, other in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(step, other, check_dtype=False, **TOLERANCES)


def left_pad(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(width) >= width - len(row) for row in rows]).long()
    return {"ids": ids, "attention_mask": mask}


@EVERY_MODEL
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_greedy_equals_a_loop_over_the_forward_pass(attn, name):
    model, ids = model_for(name, attn), random_ids(2, 11)
    outputs = generate(model, ids)
    with torch.no_grad():
        for logits in outputs.logits:
            expected = model(ids, use_cache=False).logits[:, -1]
            torch.testing.assert_close(logits, expected, check_dtype=False, **TOLERANCES)
            ids = torch.cat([ids, expected.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(outputs.sequences, ids)
    assert len(set(ids[0, 11:].tolist())) > 3, "the text is no repetition that would hide errors"


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in MIXTURES for mode in MODES if mode not in SAMPLING]
    + [(name, mode) for name in ("rope", "sparse") for mode in SAMPLING],
)
def test_cached_equals_uncached(name, mode):
    model, ids = model_for(name), random_ids(2, 11)
    cached = generate(model, ids, **MODES[mode])
    assert cached.past_key_values is not None
    assert_same(cached, generate(model, ids, use_cache=False, **MODES[mode]))


def test_the_modes_are_not_all_alike():
    model, ids = model_for("rope"), random_ids(1, 11)
    first = {mode: tuple(generate(model, ids, **MODES[mode]).sequences[0].tolist()) for mode in MODES}
    assert len(set(first.values())) >= len(MODES) - 2
    assert generate(model, ids, seed=1, **MODES["temperature"]).sequences[0].tolist() != list(first["temperature"])


@EVERY_MIXTURE
def test_static_cache_equals_uncached(name):
    check_static_cache(model_for(name))


@pytest.mark.parametrize(
    "kinds",
    [
        *("simplicial, full", "full, simplicial", "simplicial, chunked"),
        *("linear, full", "full, performer", "bigbird, sliding", "full, lsh"),
    ],
)
def test_static_cache_with_layers_that_have_none(kinds):
    check_static_cache(tiny_model(attention_types=kinds))


def check_static_cache(model):
    ids = random_ids(2, 11)
    static = generate(model, ids, cache_implementation="static")
    assert type(static.past_key_values).__name__ == "StaticCache"
    assert_same(static, generate(model, ids, use_cache=False))


@EVERY_MODEL
@pytest.mark.parametrize("chunk", [3, 8, 10])
def test_prefilling_in_chunks_equals_uncached(chunk, name):
    model, ids = model_for(name), random_ids(2, 21)
    expected = generate(model, ids, use_cache=False, max_new_tokens=4)
    assert_same(generate(model, ids, prefill_chunk_size=chunk, max_new_tokens=4), expected)


def count_passes(model, ids, **settings) -> tuple[int, object]:
    """The number of forward passes that a generation takes, and its result."""
    passes = []
    handle = model.model.register_forward_pre_hook(lambda *args: passes.append(1))
    outputs = generate(model, ids, **settings)
    handle.remove()
    return len(passes), outputs


@EVERY_MIXTURE
@pytest.mark.parametrize("quality", ["good", "bad"])
def test_an_assistant_changes_nothing(quality, name):
    """A good assistant is the model with noise, whose guesses are kept; those of a bad one are cropped again."""
    model, ids = model_for(name), random_ids(1, 11)
    assistant = model_for(name) if quality == "good" else tiny_model(seed=9, num_hidden_layers=1)
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    assistant.generation_config.num_assistant_tokens = 4
    passes, outputs = count_passes(model, ids, assistant_model=assistant)
    assert passes < NEW_TOKENS if quality == "good" else passes > NEW_TOKENS // 2
    assert_same(outputs, generate(model, ids, use_cache=False))


@EVERY_MIXTURE
def test_prompt_lookup_changes_nothing(name):
    model = model_for(name)
    first = generate(model, random_ids(1, 11)).sequences
    ids = torch.cat([first, first[:, :13]], dim=1)  # a text that repeats, so that looking up finds something
    assert_same(generate(model, ids, prompt_lookup_num_tokens=4), generate(model, ids, use_cache=False))


@EVERY_MODEL
def test_a_returned_cache_can_be_continued(name):
    model, ids, more = model_for(name), random_ids(2, 11), random_ids(2, 5, seed=3)
    first = generate(model, ids, max_new_tokens=6)
    longer = torch.cat([first.sequences, more], dim=1)
    continued = generate(model, longer, past_key_values=first.past_key_values)
    assert_same(continued, generate(model, longer, use_cache=False))


@cache
def generated_alone(name: str, length: int, num_beams: int):
    """What follows a row of that length that is alone, without a cache."""
    return generate(model_for(name), random_ids(length, seed=length)[None], use_cache=False, num_beams=num_beams)


@EVERY_MODEL
@pytest.mark.parametrize(
    "settings",
    [{}, {"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 4}, {"num_beams": 3}],
    ids=["cached", "uncached", "static", "chunked_prefill", "beams"],
)
def test_a_left_padded_row_equals_the_row_alone(settings, name):
    model = model_for(name)
    rows = [random_ids(length, seed=length) for length in (11, 4, 9)]
    batch = generate(model, **left_pad(rows), **settings)
    for index, row in enumerate(rows):
        alone = generated_alone(name, len(row), settings.get("num_beams", 1))
        assert batch.sequences[index, 11:].tolist() == alone.sequences[0, len(row) :].tolist()
        if "num_beams" not in settings:
            for step, other in zip(batch.logits, alone.logits, strict=True):
                torch.testing.assert_close(step[index], other[0], check_dtype=False, **TOLERANCES)


@pytest.mark.parametrize("name", ["rope", "relative", "sparse"])
def test_generation_goes_on_from_embeddings(name):
    model, ids = model_for(name), random_ids(2, 11)
    embeds = model.get_input_embeddings()(ids)
    actual = generate(model, None, inputs_embeds=embeds)
    expected = generate(model, ids)
    assert actual.sequences.tolist() == expected.sequences[:, 11:].tolist()


def test_an_end_token_stops_a_row():
    model, ids = model_for("rope"), random_ids(2, 11)
    free = generate(model, ids).sequences
    end = free[0, 15].item()
    stopped = generate(model, ids, eos_token_id=end).sequences
    length = free[0, 11:].tolist().index(end) + 12
    assert stopped[0, :length].tolist() == free[0, :length].tolist()
    assert (stopped[0, length:] == 0).all()


@pytest.mark.parametrize(
    ("kind", "longest"), [("sliding", 7), ("chunked", 8), ("simplicial", 7), ("full", 24), ("lsh", 24)]
)
def test_caches_hold_what_the_kind_needs(kind, longest):
    """The last token is never fed back, so a run over 25 tokens fills 24."""
    cache = generate(model_for(kind), random_ids(1, 11)).past_key_values
    assert cache.get_seq_length() == 24
    assert all(layer.keys.shape[-2] <= longest for layer in cache.layers)
