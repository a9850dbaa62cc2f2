"""A decoder with its tokenizer, in a folder that can be served."""

import torch
from support.tiny import tiny_model
from support.tokenizer_texts import TEXTS

from trine import train_byte_level_bpe


MESSAGES = [{"role": "user", "content": "It's the reader?"}]


def save(folder, tokenizer, model=None, **fields):
    """A decoder with its tokenizer, whose greedy texts vary."""
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, **fields}
    model = model or tiny_model(dtype=torch.float32, attn="sdpa", scale=2.0, **size)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def make_tokenizer():
    return train_byte_level_bpe(TEXTS, 420, show_progress=False, chat_template="chatml")
