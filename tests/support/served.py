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


def make_watched(model, tokenizer, prefix_cache=None, responses=None, seed=None, **limits):
    """What a server asks: the application with a decoder named "mine", and its state."""
    from trine.scripts.serving.app import make_app
    from trine.scripts.serving.decoder import Decoder
    from trine.scripts.serving.limits import Limits
    from trine.scripts.serving.managers import OneModel
    from trine.scripts.serving.watch import Watch

    state = OneModel(limits=Limits(**limits), prefix_cache=prefix_cache, default_seed=seed)
    if responses is not None:
        responses.metrics = state.metrics
    watch = Watch(state.metrics)
    caches = {"response": responses.clear} if responses is not None else {}
    watch.app = make_app([Decoder("mine", model, tokenizer, state, responses, "identity")], state, caches=caches)
    return watch, state


def ask_all(app, requests, spread=0.0):
    """Asks an application for all paths and bodies at the same time. Returns the answers in order."""
    import asyncio

    import httpx

    async def ask(client, number, path, body):
        await asyncio.sleep(spread * number)
        return await client.post(path, json=body)

    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
            return await asyncio.gather(*(ask(client, n, *request) for n, request in enumerate(requests)))

    return asyncio.run(run())
