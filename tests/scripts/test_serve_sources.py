"""An encoder-decoder over HTTP: the prompt is the source, and what comes together is written together."""

import json

import httpx
import pytest
import torch
from support.served import ask_all, make_tokenizer, make_watched
from support.translators import tiny_translator
from transformers import GenerationConfig

from trine.generation import GenerationBatch, PrefixCache
from trine.scripts import serve


pytest.importorskip("fastapi")

PATH = "/v1/completions"
SOURCES = ("the line", "It's the reader of the line that is read", "def read_line(self): return", "a", "the reader")
BEAMS = {"num_beams": 3, "do_sample": False, "pad_token_id": 0, "max_new_tokens": 9}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def model(tokenizer):
    model = tiny_translator(vocab_size=len(tokenizer), max_position_embeddings=48, num_hidden_layers=2)
    model.generation_config.update(pad_token_id=0, eos_token_id=None, decoder_start_token_id=1, do_sample=False)
    return model


def alone(model, tokenizer, source, seed=0, **settings):
    torch.manual_seed(seed)
    given = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0, **settings}
    config = GenerationConfig(**given)
    made = model.generate(tokenizer(source, return_tensors="pt")["input_ids"], generation_config=config)
    return tokenizer.decode(made[0, 1:], skip_special_tokens=True)


def pieces(text):
    lines = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")]
    return [choice["text"] for line in lines for choice in line["choices"] if choice["text"]], lines[-1]["usage"]


@pytest.mark.parametrize("settings", [{}, BEAMS, {"eos_token_id": [*range(3, 200)]}], ids=["greedy", "beams", "ends"])
def test_sources_that_come_together_are_written_together(model, tokenizer, settings):
    """Of different lengths; with ends, their texts have different lengths, too."""
    app, state = make_watched(model, tokenizer)
    settings = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 9, **settings}
    rows = []
    model.get_encoder().register_forward_pre_hook(
        lambda _, args, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    bodies = [{"prompt": source, "generation_config": json.dumps(settings)} for source in SOURCES * 2]
    answers = ask_all(app, [(PATH, body) for body in bodies])
    passes, most = len(rows), max(rows, default=0)
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.status_code == 200, answer.text
        expected = alone(model, tokenizer, body["prompt"], **settings)
        assert answer.json()["choices"][0]["text"] == expected
        assert answer.json()["usage"]["prompt_tokens"] == len(tokenizer(body["prompt"])["input_ids"])
    assert passes < len(bodies) and most > 1  # the first begins alone
    if "eos_token_id" in settings:
        assert len({answer.json()["usage"]["completion_tokens"] for answer in answers}) > 1


def test_chance_and_streams(model, tokenizer):
    app, _ = make_watched(model, tokenizer)
    greedy = {"prompt": SOURCES[1], "max_tokens": 9, "temperature": 0.0}
    drawn = {"do_sample": True, "max_new_tokens": 9, "pad_token_id": 0}
    bodies = [{**greedy, "stream": True}, greedy]
    bodies += [{"prompt": SOURCES[1], "seed": seed, "generation_config": json.dumps(drawn)} for seed in (1, 2)]
    bodies += [{"prompt": SOURCES[1], "stream": True, "generation_config": json.dumps(BEAMS)}]
    stream, text, one, two, beams = ask_all(app, [(PATH, body) for body in bodies])
    expected = alone(model, tokenizer, SOURCES[1])
    assert text.json()["choices"][0]["text"] == expected
    parts, usage = pieces(stream.text)
    assert len(parts) > 1 and "".join(parts).rstrip("\ufffd") == expected.rstrip("\ufffd")
    assert usage == text.json()["usage"]
    for seed, answer in ((1, one), (2, two)):
        assert answer.json()["choices"][0]["text"] == alone(model, tokenizer, SOURCES[1], seed, **drawn)
    parts, usage = pieces(beams.text)  # which are known at the end
    assert "".join(parts).rstrip("\ufffd") == alone(model, tokenizer, SOURCES[1], **BEAMS).rstrip("\ufffd")
    assert usage["completion_tokens"] == 9


def test_a_source_is_read_once_with_a_cache(model, tokenizer):
    cache = PrefixCache()
    app, _ = make_watched(model, tokenizer, cache)
    body = {"prompt": SOURCES[1], "max_tokens": 9, "temperature": 0.0}
    first, second = (ask_all(app, [(PATH, body)])[0].json() for _ in range(2))
    tokens = first["usage"]["prompt_tokens"]
    assert first["choices"][0]["text"] == second["choices"][0]["text"] == alone(model, tokenizer, SOURCES[1])
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == tokens > 0


def test_both_sides_have_their_own_room(tokenizer):
    model = tiny_translator(
        vocab_size=len(tokenizer), max_position_embeddings=16, num_hidden_layers=1, position_type="learned"
    )
    model.generation_config.update(pad_token_id=0, eos_token_id=None, decoder_start_token_id=1, do_sample=False)
    assert model.position_limits() == (16, 16)
    app, _ = make_watched(model, tokenizer)
    source = tokenizer.decode(tokenizer("the line that is read by the reader of the line")["input_ids"][:16])
    assert len(tokenizer(source)["input_ids"]) == 16
    free, much, long = ask_all(
        app,
        [
            (PATH, {"prompt": source}),
            (PATH, {"prompt": source, "max_tokens": 17}),
            (PATH, {"prompt": source + "the", "max_tokens": 2}),
        ],
    )
    assert free.status_code == 200 and free.json()["usage"]["completion_tokens"] == 16
    for answer in (much, long):
        assert answer.status_code == 400 and "16 positions" in answer.json()["error"]["message"]


def test_what_it_cannot(model, tokenizer, tmp_path):
    app, _ = make_watched(model, tokenizer)
    with pytest.raises(ValueError, match="cannot join a batch: the model is an encoder-decoder"):
        GenerationBatch(model).add(torch.tensor([[4, 5]]))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for option in (["--continuous_batching"], ["--chat_template", "chatml"]):
        with pytest.raises(SystemExit, match=f"{option[0][2:]} is for decoders, and .* is an encoder-decoder"):
            serve.main(["--model", str(tmp_path), *option])


def test_the_command(model, tokenizer, tmp_path):
    """A process of its own, asked over the network."""
    from trine.scripts.benchmarks.server_load import running

    tokenizer.chat_template = None
    model.float().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with running(["-m", "trine.scripts.cli", "serve", "--model", str(tmp_path), "--port", "{port}"], 1) as process:
        body = {"prompt": SOURCES[1], "max_tokens": 9, "temperature": 0.0}
        answer = httpx.post(f"{process.url}{PATH}", json=body, timeout=60)
        chat = httpx.post(
            f"{process.url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}]}, timeout=60
        )
    assert answer.json()["choices"][0]["text"] == alone(model, tokenizer, SOURCES[1])
    assert chat.status_code == 400 and "chat template" in chat.json()["error"]["message"]
