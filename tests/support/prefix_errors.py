"""Prefixes that a model refuses: what is done, and how the message begins."""

import torch
from support.tiny import random_ids, tiny_config, tiny_model
from transformers import DynamicCache

from trine import TrineModel


def reader(**fields):
    return tiny_model(prefix_lm=True, **fields)


def read(ids, prefix_length, *, model=None, **inputs):
    (model or reader())(ids, prefix_length=prefix_length, **inputs)


def generate(**settings):
    reader().generate(random_ids(2, 6), max_new_tokens=3, pad_token_id=0, **settings)


def go_on():
    """More of a prefix, when some of it has been read."""
    model = reader()
    cache = DynamicCache(config=model.config)
    model(random_ids(1, 3), past_key_values=cache)
    model(random_ids(1, 4), past_key_values=cache, prefix_length=5)


def with_other_attention():
    model = reader()
    model.config._attn_implementation = "somebody's own"
    model(random_ids(1, 4), prefix_length=2)


def for_vllm():
    config = tiny_config(prefix_lm=True)
    config._attn_implementation = "vllm"
    TrineModel(config)


PREFIX_ERRORS = {
    "a prefix for nothing": (
        lambda: read(random_ids(1, 4), 2, model=tiny_model()),
        "prefix_length=2 is given, but prefix_lm=False: load the model with from_pretrained(..., prefix_lm=True), or",
    ),
    "a prefix for an encoder": (
        lambda: read(random_ids(1, 4), 2, model=tiny_model(is_causal=False)),
        "prefix_length=2 is given, but prefix_lm=False",
    ),
    "a negative prefix": (lambda: read(random_ids(1, 4), -1), "prefix_length=-1 must be 0 or more."),
    "prefixes of another batch": (
        lambda: read(random_ids(2, 4), torch.tensor([1, 2, 3])),
        "prefix_length has shape (3,), but must be one number, or (2,): one for each text of the batch, or for each ",
    ),
    "prefixes of another row": (
        lambda: read(random_ids(1, 5), torch.tensor([1]), position_ids=torch.tensor([[0, 1, 0, 1, 2]])),
        "prefix_length has shape (1,), but must be one number, or (2,): one for each text of the batch, or for each ",
    ),
    "a prefix beside a ready mask": (
        lambda: read(random_ids(1, 4), 2, attention_mask=torch.ones(1, 1, 4, 4, dtype=torch.bool)),
        "prefix_length is given beside a ready attention_mask: give one of padding, (batch, length).",
    ),
    "a prefix beside ready masks": (
        lambda: read(random_ids(1, 4), 2, attention_mask={"full_attention": None}),
        "prefix_length is given beside a ready attention_mask",
    ),
    "a prefix in two parts": (
        go_on,
        "prefix_length=5 is more than the 3 tokens in the cache, which have not seen the rest of the prefix: read ",
    ),
    "a prefix that chunks cut": (
        lambda: generate(prefill_chunk_size=4),
        "prefix_length=tensor([6, 6]) is more than the 4 tokens in the cache",
    ),
    "a prefix for other attention": (
        with_other_attention,
        "attn_implementation=\"somebody's own\" is not one of ['eager', 'sdpa', 'flex_attention'], which take ",
    ),
    "a prefix beyond the prompt": (
        lambda: generate(prefix_length=7),
        "prefix_length=7 is above the number of tokens in the prompts, tensor([6, 6]).",
    ),
    "a paged prefix": (
        lambda: reader().generate_batch([[3]]),
        "prefix_lm=True reads a prompt both ways, which continuous batching does not; use generate.",
    ),
    "a prefix in vLLM": (for_vllm, "prefix_lm=True reads a prompt both ways, which vLLM does not; use generate."),
}
