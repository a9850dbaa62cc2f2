"""A prefix cache changes no output, reads nothing twice, and forgets what no longer holds."""

import copy
import random
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.pointers import pointer_model
from support.tiny import random_ids, tiny_model
from support.translators import tiny_translator
from transformers import LlamaConfig, LlamaForCausalLM, TextIteratorStreamer

from trine.configuration.kinds import ATTENTION_KINDS
from trine.generation import PrefixCache
from trine.generation.prefixes.tree import PrefixTree


LAYERS = [*ATTENTION_KINDS, "sliding, full", "linear, simplicial"]
WAYS = {"greedy": {}, "sampling": {"do_sample": True, "top_k": 20}, "beams": {"num_beams": 3}}
OPTIONS = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
WAYS["several"] = {"do_sample": True, "num_return_sequences": 2}


def write(model, ids, **options) -> Any:
    torch.manual_seed(1)
    return model.generate(ids, attention_mask=torch.ones_like(ids), **{**OPTIONS, **options})


@pytest.fixture
def reads():
    """A model, and the numbers of tokens that its forward passes read."""
    model, lengths = tiny_model(num_hidden_layers=2), []
    count = lambda module, arguments, options: lengths.append(options["input_ids"].shape[1])  # noqa: E731
    model.register_forward_pre_hook(count, with_kwargs=True)
    return SimpleNamespace(model=model, lengths=lengths)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layers", LAYERS)
def test_outputs_are_those_without_it(layers, way):
    model, cache = tiny_model(attention_types=layers, num_hidden_layers=2), PrefixCache(block_size=8)
    shared = random_ids(1, 21)
    for length, cached in ((5, 0), (9, 16), (1, 16), (30, 16)):  # two blocks
        ids = torch.cat([shared, random_ids(1, length, seed=length)], dim=1)
        assert torch.equal(write(model, ids, **WAYS[way], prefix_cache=cache), write(model, ids, **WAYS[way]))
        assert cache.cached_tokens == cached
    assert torch.equal(write(model, ids, **WAYS[way], prefix_cache=cache), write(model, ids, **WAYS[way]))
    assert cache.cached_tokens == 48


@pytest.mark.parametrize("layers", ["full", "linear, sliding"])
def test_a_chat_goes_on_from_its_last_turn(layers):
    model, cache = tiny_model(attention_types=layers, num_hidden_layers=2), PrefixCache(block_size=8)
    history = random_ids(1, 11)
    for turn in range(4):
        output = write(model, history, prefix_cache=cache)
        assert torch.equal(output, write(model, history))
        if turn:  # all but the last token that was written, which was not read, and the question
            assert cache.cached_tokens == history.shape[1] - 4
        history = torch.cat([output, random_ids(1, 3, seed=turn + 1)], dim=1)


def test_nothing_is_read_twice(reads):
    cache = PrefixCache(block_size=8)
    ids = random_ids(1, 40)
    write(reads.model, ids, prefix_cache=cache, max_new_tokens=2)
    assert reads.lengths == [40, 1]
    reads.lengths.clear()
    other = torch.cat([ids[:, :24], random_ids(1, 4, seed=1)], dim=1)
    write(reads.model, other, prefix_cache=cache, max_new_tokens=1)
    assert reads.lengths == [4] and cache.cached_tokens == 24
    assert cache.state.prompt_tokens == 68 and cache.state.cached_tokens == 24


def test_states_of_all_tokens_are_kept_once():
    model, cache = tiny_model(num_hidden_layers=2), PrefixCache(block_size=8)
    write(model, random_ids(1, 41), prefix_cache=cache, max_new_tokens=1)
    layers = model(random_ids(1, 41)).past_key_values.layers
    once = sum(layer.keys.numel() + layer.values.numel() for layer in layers) * 8
    assert cache.state.bytes == once and cache.state.entries == 6  # five blocks and an output


def test_a_copy_is_used(reads):
    model, cache = reads.model, PrefixCache(block_size=8)
    ids = random_ids(1, 20)
    expected = write(model, ids)
    for _ in range(3):
        output = write(model, ids, prefix_cache=cache, return_dict_in_generate=True)
        assert torch.equal(output.sequences, expected)
        for layer in output.past_key_values.layers:
            layer.keys.fill_(9.0)


@pytest.mark.parametrize("layers", ["full", "sliding, linear"])
def test_memory_has_a_bound(layers):
    model = tiny_model(attention_types=layers, num_hidden_layers=2)
    free = PrefixCache(block_size=8)
    write(model, random_ids(1, 30), prefix_cache=free)
    cache = PrefixCache(max_bytes=free.state.bytes * 2, block_size=8)
    for seed in range(10):
        ids = torch.cat([random_ids(1, 10), random_ids(1, 20, seed=seed + 1)], dim=1)
        assert torch.equal(write(model, ids, prefix_cache=cache), write(model, ids))
        assert 0 < cache.state.bytes <= cache.max_bytes
    write(model, random_ids(1, 10), prefix_cache=cache)
    assert cache.cached_tokens == 8  # what all of them begin with has been used last
    cache.clear()
    assert (cache.state.bytes, cache.state.entries) == (0, 0)


@pytest.mark.parametrize("layers", ["full", "sliding, linear"])
def test_a_thousand_requests(layers):
    """The count of bytes is that of the tensors that live, which have a bound whatever comes."""
    model, cache = tiny_model(attention_types=layers, num_hidden_layers=2), PrefixCache(40_000, block_size=8)
    chooser, sizes = random.Random(0), []
    for number in range(1000):
        beginning = random_ids(1, 16, seed=chooser.randrange(5))
        ids = torch.cat([beginning, random_ids(1, chooser.randint(1, 12), seed=number)], dim=1)
        write(model, ids, prefix_cache=cache, max_new_tokens=2)
        if number % 50 == 49:
            tensors = {}  # by their memory, which a part of a larger tensor would keep whole
            waiting = [vars(layer) for node in cache._tree.nodes() for layer in node.held.layers]
            while waiting:
                value = waiting.pop()
                if isinstance(value, torch.Tensor):
                    memory = value.untyped_storage()
                    tensors[memory.data_ptr()] = memory.nbytes()
                elif isinstance(value, (dict, list, tuple)):
                    waiting += value.values() if isinstance(value, dict) else value
            sizes.append(cache.state.bytes)
            assert sum(tensors.values()) == sizes[-1] <= cache.max_bytes
    assert min(sizes[2:]) > cache.max_bytes / 2 and cache.state.cached_tokens > 0.4 * cache.state.prompt_tokens


def test_memory_that_holds_nothing():
    model, cache = tiny_model(num_hidden_layers=2), PrefixCache(max_bytes=10, block_size=8)
    for _ in range(2):
        assert torch.equal(write(model, random_ids(1, 30), prefix_cache=cache), write(model, random_ids(1, 30)))
        assert cache.cached_tokens == 0 and cache.state.entries == 0


@pytest.mark.parametrize("layers", ["full", "sliding, linear"])
def test_many_threads_at_once(layers):
    model = tiny_model(attention_types=layers, num_hidden_layers=2)
    cache = PrefixCache(max_bytes=30_000, block_size=8)
    prompts = [torch.cat([random_ids(1, 20, seed=n % 3), random_ids(1, 1 + n % 5, seed=n)], dim=1) for n in range(32)]
    options = {**OPTIONS, "max_new_tokens": 4, "pad_token_id": None}
    expected: list[Any] = [model.generate(ids, **options) for ids in prompts]
    wrong = []

    def run(numbers):
        for number in numbers:
            output: Any = model.generate(prompts[number], prefix_cache=cache, **options)
            if not torch.equal(output, expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=run, args=(range(start, 32, 8),)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cache.state.prompt_tokens == sum(ids.shape[1] for ids in prompts)


def test_new_weights_and_adapters_are_read_anew():
    model, cache, ids = tiny_model(num_hidden_layers=2), PrefixCache(block_size=8), random_ids(1, 30)
    write(model, ids, prefix_cache=cache)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.double().eval()

    def check(is_known):
        expected = adapted.generate(input_ids=ids, **OPTIONS)
        assert torch.equal(adapted.generate(input_ids=ids, prefix_cache=cache, **OPTIONS), expected)
        assert bool(cache.cached_tokens) == is_known

    check(False)
    check(True)
    adapted.train()
    check(False)  # no dropout here, but elsewhere states would be random
    adapted.eval()
    check(False)
    with adapted.disable_adapter():
        check(False)
    adapted.merge_adapter()
    check(False)
    adapted.unmerge_adapter()
    with torch.no_grad():
        next(adapted.parameters()).add_(0.1)
    check(False)
    check(True)


def test_two_models_share_nothing():
    cache, ids = PrefixCache(block_size=8), random_ids(1, 30)
    for seed in (0, 1):
        model = tiny_model(num_hidden_layers=2, seed=seed)
        assert torch.equal(write(model, ids, prefix_cache=cache), write(model, ids))
        assert cache.cached_tokens == 0
        assert torch.equal(write(copy.deepcopy(model), ids, prefix_cache=cache), write(model, ids))
        assert cache.cached_tokens == 0


def test_models_of_transformers():
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=61, **shape)).eval()
    cache, ids = PrefixCache(block_size=8), random_ids(1, 30)
    for _ in range(2):
        assert torch.equal(cache.generate(model, ids, **OPTIONS), model.generate(ids, **OPTIONS))  # pyright: ignore
    assert cache.cached_tokens == 24


@pytest.mark.parametrize("way", ["greedy", "beams"])
@pytest.mark.parametrize("make", [pointer_model, tiny_translator, lambda: tiny_translator("recurrent")])
def test_the_encoder_reads_a_source_once(make, way):
    model, cache = make(), PrefixCache()
    sources = [random_ids(1, length, seed=length, vocab_size=20) for length in (9, 8, 5)]
    calls = []
    model.get_encoder().register_forward_hook(lambda *_: calls.append(1))
    for source in (*sources, *sources):
        calls.clear()
        output = write(model, source, **WAYS[way], prefix_cache=cache)
        assert len(calls) == (0 if cache.cached_tokens else 1)
        assert torch.equal(output, write(model, source, **WAYS[way]))
    assert cache.state.cached_tokens == 22 and cache.state.entries == 3


def test_a_stream():
    class Words:
        def decode(self, ids, **kwargs):
            return " ".join(map(str, ids)) + " "

    model, cache, ids = tiny_model(num_hidden_layers=2), PrefixCache(block_size=8), random_ids(1, 20)
    expected = write(model, ids)[0, 20:].tolist()
    for _ in range(2):
        streamer = TextIteratorStreamer(Words(), skip_prompt=True)  # pyright: ignore[reportArgumentType]
        write(model, ids, prefix_cache=cache, streamer=streamer)
        assert "".join(streamer).split() == [str(token) for token in expected]
    assert cache.cached_tokens == 16


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": random_ids(2, 5)}, r"the shape of the prompt, \(2, 5\), must be \(1, tokens\)"),
        ({"input_ids": random_ids(1, 0)}, r"the shape of the prompt, \(1, 0\)"),
        ({"inputs_embeds": torch.randn(1, 5, 32)}, "inputs_embeds has vectors in place of tokens"),
        ({"input_ids": random_ids(1, 3), "attention_mask": torch.tensor([[0, 1, 1]])}, "attention_mask hides tokens"),
        ({"input_ids": torch.tensor([[5, 0, 7]]), "pad_token_id": 0}, "the prompt holds pad_token_id=0"),
        ({"input_ids": random_ids(1, 3), "cache_implementation": "static"}, "cache_implementation asks for another"),
        ({"input_ids": random_ids(1, 3), "prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens drafts"),
        ({"input_ids": random_ids(1, 3), "output_hidden_states": True}, "output_hidden_states asks for the states"),
    ],
)
def test_what_cannot_be_cached_is_refused(inputs, message):
    with pytest.raises(ValueError, match=f"prefix_cache: {message}"):
        tiny_model().generate(**inputs, max_new_tokens=1, prefix_cache=PrefixCache())


def test_an_end_token_is_no_padding():
    model, cache, ids = tiny_model(), PrefixCache(block_size=2), torch.tensor([[5, 2, 7, 8]])
    options = {**OPTIONS, "pad_token_id": 2, "eos_token_id": 2}
    for _ in range(2):
        output: Any = model.generate(ids, **options, prefix_cache=cache)
        assert output.tolist() == model.generate(ids, **options).tolist()  # pyright: ignore[reportAttributeAccessIssue]
    assert cache.cached_tokens == 2


@pytest.mark.parametrize("name", ["max_bytes", "block_size"])
@pytest.mark.parametrize("value", [0, 1.5, "1GiB", True])
def test_bad_sizes(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r} must be a whole number of at least 1"):
        PrefixCache(**{name: value})


def test_the_least_recently_used_end_goes_first():
    tree = PrefixTree(max_bytes=30)
    held: Any = SimpleNamespace(bytes=10)
    first = tree.add(tree.root, [1, 2], held)
    tree.add(first, [3], held)
    other = tree.add(first, [4, 5], held)
    assert tree.find([1, 2, 3, 9]).length == 3
    last = tree.add(tree.root, [7], held)
    assert not tree.has(other) and tree.has(first) and tree.has(last)
    assert tree.find([1, 2, 4, 5]) is first and tree.find([8]) is tree.root
    assert tree.add(other, [6], held) is other and len(tree) == 3 and tree.bytes == 30  # under a node that is gone
