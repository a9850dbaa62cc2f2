"""Texts that are continued together get the tokens that each gets alone, whatever comes and goes beside them."""

import pytest
import torch
from support.tiny import SPARSE, random_ids, tiny_model
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    TextIteratorStreamer,
)

from trine.configuration.kinds import ATTENTION_KINDS
from trine.generation import GenerationBatch, PrefixCache


LAYERS = [*ATTENTION_KINDS, "sliding, full", "linear, simplicial", "lsh, chunked"]
BASE = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
SETTINGS = [
    {"max_new_tokens": 12},
    {"max_new_tokens": 3, "do_sample": True, "temperature": 1.5},
    {"max_new_tokens": 20, "do_sample": True, "top_k": 7, "repetition_penalty": 1.3},
    {"max_new_tokens": 1},
    {"max_new_tokens": 9, "no_repeat_ngram_size": 2},
    {"max_new_tokens": 25, "do_sample": True, "top_p": 0.8, "eos_token_id": [5, 9, 21]},
    {"max_new_tokens": 15, "min_new_tokens": 6, "eos_token_id": 7},
]
LENGTHS = [5, 17, 1, 30, 9, 2, 12]


def configs():
    return [GenerationConfig(**{**BASE, **settings}) for settings in SETTINGS]


def alone(model, ids, config, seed):
    torch.manual_seed(seed)
    return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0].tolist()


def together(batch, prompts, arrivals):
    """The texts, where row i is added before step `arrivals[i]`, and the widths of the batch."""
    rows, widths, step = {}, [], 0
    while len(rows) < len(prompts) or len(batch):
        for number, (ids, config) in enumerate(zip(prompts, configs(), strict=True)):
            if arrivals[number] == step:
                rows[number] = batch.add(ids, config, seed=number)
        batch.step()
        widths.append(batch.width)
        step += 1
    return [rows[number].ids[0].tolist() for number in range(len(prompts))], widths


@pytest.mark.parametrize("layers", LAYERS)
def test_tokens_are_those_of_each_alone(layers):
    model = tiny_model(attention_types=layers, num_hidden_layers=2)
    prompts = [random_ids(1, length, seed=length) for length in LENGTHS]
    expected = [alone(model, ids, config, n) for n, (ids, config) in enumerate(zip(prompts, configs(), strict=True))]
    for arrivals in ([0] * 7, [0, 0, 4, 4, 5, 9, 12], [30, 18, 3, 2, 1, 0, 0]):
        found, widths = together(GenerationBatch(model), prompts, arrivals)
        assert found == expected
        assert max(widths) < max(map(len, expected)) and widths[-1] == 0
    cache = PrefixCache(block_size=4)
    for _ in range(2):
        found, _ = together(GenerationBatch(model, cache), prompts, [0, 0, 4, 4, 5, 9, 12])
        assert found == expected
    assert cache.state.cached_tokens > cache.state.prompt_tokens / 4


PEERS = {
    "llama": lambda size: LlamaForCausalLM(LlamaConfig(**size)),
    "mistral": lambda size: MistralForCausalLM(MistralConfig(**size, num_key_value_heads=2, sliding_window=8)),
    "gpt2": lambda size: GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=96)),
    "experts": lambda size: tiny_model(num_hidden_layers=2, attention_types="full, sliding", **SPARSE),
    "learned": lambda size: tiny_model(num_hidden_layers=2, position_type="learned"),
    "relative": lambda size: tiny_model(num_hidden_layers=2, position_type="relative"),
}


@pytest.mark.parametrize("name", PEERS)
def test_other_models_and_positions(name):
    torch.manual_seed(0)
    size = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    model = PEERS[name]({**size, "num_attention_heads": 4, "initializer_range": 0.3}).double().eval()
    prompts = [random_ids(1, length, seed=length) for length in LENGTHS]
    expected = [alone(model, ids, config, n) for n, (ids, config) in enumerate(zip(prompts, configs(), strict=True))]
    assert together(GenerationBatch(model), prompts, [0, 0, 4, 4, 5, 9, 12])[0] == expected


@pytest.mark.parametrize("layers", ["full", "sliding", "simplicial", "bigbird"])
def test_the_batch_is_as_wide_as_its_longest_text(layers):
    model, batch = tiny_model(attention_types=layers, num_hidden_layers=2), None
    batch = GenerationBatch(model)
    long = batch.add(random_ids(1, 60), GenerationConfig(**BASE, max_new_tokens=50))
    short = batch.add(random_ids(1, 4), GenerationConfig(**BASE, max_new_tokens=50))
    batch.step()
    assert batch.width == 61 == long.ids.shape[1] - 1
    batch.remove([long])
    assert batch.width == 5 and batch.rows == [short]
    for _ in range(200):  # texts that overlap without end do not make it wider
        batch.add(random_ids(1, 4), GenerationConfig(**BASE, max_new_tokens=3))
        batch.step()
        assert batch.width <= 60
    cut = short.ids[:, : 4 + 50]
    assert cut[0].tolist() == alone(model, random_ids(1, 4), GenerationConfig(**BASE, max_new_tokens=50), 0)


def test_what_one_row_does_wrong_is_its_own():
    model = tiny_model(num_hidden_layers=2)
    batch = GenerationBatch(model)
    fine = batch.add(random_ids(1, 5), GenerationConfig(**BASE, max_new_tokens=8))

    def fail(ids, scores):
        if ids.shape[1] > 9:
            raise FloatingPointError("no more")
        return scores

    config = GenerationConfig(**BASE, max_new_tokens=8)
    broken = batch.add(random_ids(1, 7), config, logits_processor=[fail])
    while len(batch):
        batch.step()
    assert isinstance(broken.error, FloatingPointError) and len(broken.new_tokens) == 3
    assert fine.error is None
    assert fine.ids[0].tolist() == alone(model, random_ids(1, 5), config, 0)


def test_streams_get_each_token():
    model = tiny_model(num_hidden_layers=2)

    class Words:
        def decode(self, ids, **kwargs):
            return " ".join(map(str, ids))

    streamer = TextIteratorStreamer(Words(), skip_prompt=True)
    batch = GenerationBatch(model)
    row = batch.add(random_ids(1, 5), GenerationConfig(**BASE, max_new_tokens=8), streamer=streamer)
    while len(batch):
        batch.step()
    streamer.end()
    assert "".join(streamer).split() == [*map(str, row.new_tokens)]


def test_settings_and_models_that_cannot_join():
    batch = GenerationBatch(tiny_model(num_hidden_layers=2))
    for settings, reason in {
        ("num_beams", 2): "it is generated by beam sample",
        ("num_return_sequences", 2): "num_return_sequences=2",
        ("guidance_scale", 2.0): "guidance_scale=2.0",
        ("prompt_lookup_num_tokens", 3): "it is generated by assisted generation",
        ("use_cache", False): "use_cache=False",
    }.items():
        with pytest.raises(ValueError, match=f"A text cannot join a batch: {reason}"):
            batch.add(random_ids(1, 5), max_new_tokens=3, **{**BASE, "do_sample": True, settings[0]: settings[1]})
    mamba = MambaForCausalLM(MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(ValueError, match="a cache whose rows cannot be joined"):
        GenerationBatch(mamba).add(random_ids(1, 5), GenerationConfig(**BASE, max_new_tokens=3))
    with pytest.raises(ValueError, match="hides tokens"):
        mask = torch.tensor([[0, 1, 1, 1, 1]])
        GenerationBatch(batch.model, PrefixCache()).add(random_ids(1, 5), attention_mask=mask)
