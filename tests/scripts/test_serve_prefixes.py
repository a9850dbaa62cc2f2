"""The server does not read again what it has read, says how much that was, and answers the same."""

import json

import pytest
import torch
from support.served import MESSAGES, make_tokenizer
from support.tiny import tiny_model

from trine.generation import PrefixCache
from trine.scripts import serve


pytest.importorskip("fastapi")


@pytest.fixture
def clients():
    """The application with a prefix cache, and without one."""
    from fastapi.testclient import TestClient

    from trine.scripts.serving.app import make_app
    from trine.scripts.serving.decoder import Decoder
    from trine.scripts.serving.managers import OneModel

    tokenizer = make_tokenizer()
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, "attention_types": "sliding, linear"}
    model = tiny_model(dtype=torch.float32, attn="sdpa", scale=2.0, eos_token_id=None, num_hidden_layers=2, **size)
    states = [OneModel(prefix_cache=PrefixCache(block_size=4)), OneModel()]
    return [TestClient(make_app([Decoder("mine", model, tokenizer, state)], state)) for state in states]


def last_usage(text: str) -> dict:
    """The usage at the end of a stream."""
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")]
    found = [event.get("usage") or event.get("response", {}).get("usage") for event in events]
    return [usage for usage in found if usage][-1]


@pytest.mark.parametrize(
    ("path", "body", "read"),
    [
        ("chat/completions", {"messages": MESSAGES}, lambda answer: answer["choices"][0]["message"]["content"]),
        ("completions", {"prompt": "It's the reader of the line"}, lambda answer: answer["choices"][0]["text"]),
        ("responses", {"input": "the reader"}, lambda answer: answer["output"][0]["content"][0]["text"]),
    ],
)
def test_what_was_read_is_counted(clients, path, body, read):
    limit = {"max_output_tokens": 6} if path == "responses" else {"max_tokens": 6}
    asked = {"temperature": 0.0, **limit, **body}
    answer, expected = (client.post(f"/v1/{path}", json=asked).json() for client in clients)
    assert read(answer) == read(expected) != ""
    name, total = ("prompt_tokens_details", "prompt_tokens")
    if path == "responses":
        name, total = "input_tokens_details", "input_tokens"
    assert answer["usage"][name]["cached_tokens"] == 0
    usage = last_usage(clients[0].post(f"/v1/{path}", json={**asked, "stream": True}).text)
    assert usage[name]["cached_tokens"] == (usage[total] - 1) // 4 * 4 > 0


def test_the_stream_is_the_same(clients):
    texts = []
    for client in clients:
        asked = {"prompt": "the line that is read", "temperature": 0.0, "max_tokens": 6, "stream": True}
        lines = client.post("/v1/completions", json=asked).text.splitlines()
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        texts.append([choice["text"] for event in events for choice in event["choices"]])
    assert texts[0] == texts[1] and any(texts[0])


@pytest.mark.parametrize("size", ["1", "GiB", "0MB", "many"])
def test_a_bad_size(size, capsys):
    with pytest.raises(SystemExit):
        serve.main(["--model", "nowhere", "--prefix_cache", size])
    assert f"prefix_cache='{size}' is not a size such as 1GiB or 500MB" in capsys.readouterr().err


def test_not_with_continuous_batching(capsys):
    with pytest.raises(SystemExit):
        serve.main(["--model", "nowhere", "--prefix_cache", "1GiB", "--continuous_batching"])
    assert "prefix_cache='1GiB' needs a --model without continuous_batching" in capsys.readouterr().err
