"""Settings of generation that cannot be, and the messages about them."""

import torch
from support.tiny import random_ids, tiny_model
from support.translators import tiny_translator
from transformers import GenerationConfig


def generate(model, ids=None, **settings):
    settings = {"max_new_tokens": 4, "pad_token_id": 0, **settings}
    return model.generate(random_ids(1, 5) if ids is None else ids, **settings)


# Every class that generates, as each has the checks of its own.
GENERATORS = {
    "decoder": tiny_model,
    "encoder-decoder": tiny_translator,
    "recurrent": lambda: tiny_translator("recurrent"),
}
# Settings to the message about them.
BAD_SETTINGS = {
    "num_beams=0": ({"num_beams": 0}, "num_beams=0 must be a whole number of at least 1; 1 is no beam search."),
    "num_beams=2.5": ({"num_beams": 2.5}, "num_beams=2.5 must be a whole number of at least 1; 1 is no beam search."),
    "temperature=0": (
        {"do_sample": True, "temperature": 0.0},
        "temperature=0.0 must be above 0; do_sample=False always takes the best token.",
    ),
    "temperature=nan": (
        {"do_sample": True, "temperature": float("nan")},
        "temperature=nan must be above 0; do_sample=False always takes the best token.",
    ),
    "top_p=0": (
        {"do_sample": True, "top_p": 0.0},
        "top_p=0.0 must be above 0 and at most 1; 1 keeps every token.",
    ),
    "top_p=1.5": (
        {"do_sample": True, "top_p": 1.5},
        "top_p=1.5 must be above 0 and at most 1; 1 keeps every token.",
    ),
    "top_k=62": (
        {"do_sample": True, "top_k": 62},
        "top_k=62 must be a whole number from 0 to vocab_size=61; 0 keeps every token.",
    ),
    "top_k=-1": (
        {"do_sample": True, "top_k": -1},
        "top_k=-1 must be a whole number from 0 to vocab_size=61; 0 keeps every token.",
    ),
    "top_k in a config": (
        {"generation_config": GenerationConfig(do_sample=True, top_k=99)},
        "top_k=99 must be a whole number from 0 to vocab_size=61; 0 keeps every token.",
    ),
    "prefix_cache=5": ({"prefix_cache": 5}, "prefix_cache=5 must be a PrefixCache of trine.generation."),
    "empty": (
        {"ids": torch.zeros(1, 0, dtype=torch.long)},
        "input_ids has shape (1, 0), but must be (batch, length) with one token at least. An empty text can be begun ",
    ),
    "no row": (
        {"ids": torch.zeros(0, 4, dtype=torch.long)},
        "input_ids has shape (0, 4), but must be (batch, length)",
    ),
    "a vector": ({"ids": random_ids(4)}, "input_ids has shape (4,), but must be (batch, length) with one token at"),
    "an empty row": (
        {"ids": random_ids(2, 3), "attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])},
        "attention_mask[1] has no token. An empty text can be begun with bos_token_id.",
    ),
}
