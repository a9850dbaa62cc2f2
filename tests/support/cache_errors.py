"""Caches, and ways of generating, that a model refuses: what is done, and how the message begins."""

import torch
from support.tiny import random_ids, tiny_model
from support.translators import tiny_translator
from transformers import DynamicCache, EncoderDecoderCache, StaticCache


def generate(model, **settings):
    return model.generate(random_ids(1, 5), max_new_tokens=4, pad_token_id=0, **settings)


def translate(cache_of, **fields):
    """A forward pass with a cache that is made for the model's config."""
    model = tiny_translator(**fields)
    ids = {"input_ids": random_ids(1, 5), "decoder_input_ids": random_ids(1, 4)}
    return model(**ids, past_key_values=cache_of(model.config), use_cache=True)


def prefix() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What prefix tuning gives: keys and values (batch, heads, tokens, head size) of each layer."""
    return [(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8))] * 2


def without_config(kind: str) -> tuple:
    return (
        lambda: tiny_model(attention_types=f"full, {kind}")(random_ids(2, 4), past_key_values=DynamicCache()),
        f"past_key_values has nothing for layer 1, which is '{kind}'. Make the cache for this model: "
        "DynamicCache(config=model.config).",
    )


OWN_STATES = ("simplicial", "linear", "performer", "lsh")
ADVICE = "EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache())."
CACHE_ERRORS = {
    **{
        f"a cache without a config, {kind}": without_config(kind)
        for kind in ("simplicial", "linear", "performer", "lsh")
    },
    "a cache for another model": (
        lambda: tiny_model(attention_types="simplicial")(
            random_ids(1, 4), past_key_values=DynamicCache(config=tiny_model().config)
        ),
        "past_key_values has a DynamicLayer for layer 0, which is 'simplicial'. Make the cache for this model",
    ),
    "keys and values before a text": (
        lambda: tiny_model(attention_types="linear")(random_ids(1, 4), past_key_values=DynamicCache(prefix())),
        "past_key_values has a DynamicLayer for layer 0, which is 'linear'. Make the cache for this model: "
        "DynamicCache(config=model.config). Keys and values alone, as PEFT's prefix tuning makes them, are not its "
        "states; prompt tuning suits it.",
    ),
    "a cache for an encoder": (
        lambda: tiny_model(is_causal=False)(random_ids(1, 4), past_key_values=DynamicCache(prefix())),
        "past_key_values are given, but is_causal=False: only a decoder reads a cache. Methods that put keys and "
        "values before a text, as PEFT's prefix tuning, do not suit this model; prompt tuning does.",
    ),
    "two caches without a config": (
        lambda: translate(lambda config: EncoderDecoderCache(DynamicCache(), DynamicCache()), attention_types="lsh"),
        f"past_key_values has nothing for layer 0, which is 'lsh'. Make the cache for this model: {ADVICE}",
    ),
    "one cache for two": (
        lambda: translate(lambda config: DynamicCache(config=config)),
        f"past_key_values is a DynamicCache, but a decoder with cross-attention needs {ADVICE}",
    ),
    "a windowed cache of the source": (
        lambda: translate(
            lambda config: EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config)),
            attention_types="sliding",
        ),
        "cross_attention_cache has a DynamicSlidingWindowLayer for layer 0, which does not hold all states of the "
        f"encoder. Use {ADVICE}",
    ),
    "a static windowed cache of the source": (
        lambda: translate(
            lambda config: EncoderDecoderCache(
                DynamicCache(config=config), StaticCache(config=config, max_cache_len=5)
            ),
            attention_types="linear",
        ),
        "cross_attention_cache has a KernelizedCacheLayer for layer 0, which does not hold all states of the encoder.",
    ),
    **{
        f"an exit after {layer!r}": (
            lambda layer=layer: generate(tiny_model(), assistant_early_exit=layer),
            f"assistant_early_exit={layer!r} must be a number of layers, from 1 to num_hidden_layers=2.",
        )
        for layer in (0, -1, 3, 1.5, True)
    },
    **{
        f"an exit of two stacks, {kind}": (
            lambda kind=kind: generate(tiny_translator(kind), assistant_early_exit=1),
            "assistant_early_exit=1 is for decoders, but this is an encoder-decoder (model_type=",
        )
        for kind in ("transformer", "recurrent")
    },
    **{
        f"a cache that is {name}": (
            lambda name=name: generate(tiny_model(), cache_implementation=name),
            f"cache_implementation='{name}' moves the cache from an accelerator to the CPU, but the model is on the "
            "CPU. Leave it out, or take 'dynamic' or 'static'.",
        )
        for name in ("offloaded", "offloaded_static")
    },
}
