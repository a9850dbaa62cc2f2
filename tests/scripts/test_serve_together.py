"""Requests that are answered together get what each gets alone; who waits too long, or goes away, makes room."""

import asyncio
import json
import time

import httpx
import pytest
import torch
from support.served import MESSAGES, ask_all, make_tokenizer, make_watched
from support.tiny import tiny_model
from transformers import GenerationConfig

from trine.configuration.kinds import ATTENTION_KINDS
from trine.generation import PrefixCache


pytest.importorskip("fastapi")

PATH = "/v1/completions"
LAYERS = [*ATTENTION_KINDS, "sliding, full", "linear, simplicial"]
WAYS = (
    {"temperature": 0.0},
    {"temperature": 1.2, "top_p": 0.9},
    {"temperature": 0.0, "frequency_penalty": 0.4},
    {"generation_config": '{"num_beams": 2, "do_sample": false, "pad_token_id": 0}'},
)
BEGINNINGS = ("the line that is read by the reader ", "It's the reader of ", "def read_line(self): return ")


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def make_model(tokenizer, **fields):
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, "num_hidden_layers": 2, **fields}
    model = tiny_model(eos_token_id=None, **size)
    model.generation_config.pad_token_id = 0
    model.generation_config.do_sample = True
    return model


def bodies(count):
    """Requests of all ways, some of which begin alike, with lengths from 1 to 12."""
    return [
        {
            "prompt": f"{BEGINNINGS[n % 3]}{'a line ' * (n % 7)}{n % 5}",
            "max_tokens": 1 + n * 5 % 12,
            "seed": n,
            **WAYS[3 if n % 16 == 15 else n % 3],
        }
        for n in range(count)
    ]


def alone(model, tokenizer, body):
    """The text that `generate` gives to a request."""
    given = {"do_sample": body.get("temperature", 1) > 0, "max_new_tokens": body["max_tokens"], "pad_token_id": 0}
    given |= {name: body[name] for name in ("temperature", "top_p") if body.get(name)}
    given |= json.loads(body.get("generation_config", "{}"))
    if "frequency_penalty" in body:
        given["repetition_penalty"] = 1 + body["frequency_penalty"]
    torch.manual_seed(body["seed"])
    made = model.generate(
        **tokenizer(body["prompt"], return_tensors="pt"), generation_config=GenerationConfig(**given)
    )
    ids = tokenizer(body["prompt"])["input_ids"]
    return tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)


@pytest.mark.parametrize("layers", LAYERS)
def test_sixty_four_at_once_under_pressure(tokenizer, layers):
    """Greedy, sampled and with beams, with a prefix cache that drops more than it keeps."""
    model, asked = make_model(tokenizer, attention_types=layers), bodies(64)
    free = PrefixCache(block_size=8)
    model.generate(**tokenizer(asked[6]["prompt"], return_tensors="pt"), max_new_tokens=9, prefix_cache=free)
    cache = PrefixCache(max_bytes=4 * free.state.bytes, block_size=8)
    app, state = make_watched(model, tokenizer, cache, batch_requests=8)
    answers = ask_all(app, [(PATH, body) for body in asked])
    for body, answer in zip(asked, answers, strict=True):
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["text"] == alone(model, tokenizer, body)
    assert 0 < cache.state.bytes <= cache.max_bytes and cache.state.cached_tokens > 0
    figures = state.metrics.write().decode()
    assert 'trine_batch_size_bucket{kind="generation",le="4.0"}' in figures
    total = float(figures.split('trine_batch_size_sum{kind="generation"} ')[1].split()[0])
    passes = float(figures.split('trine_batch_size_count{kind="generation"} ')[1].split()[0])
    assert total / passes > 1.5  # rows of a forward pass


def test_seeds_do_not_depend_on_the_company(tokenizer):
    model = make_model(tokenizer)
    body = {"prompt": "the line", "max_tokens": 8, "seed": 3}
    app, _ = make_watched(model, tokenizer)
    first = ask_all(app, [(PATH, body)])[0].json()["choices"][0]["text"]
    others = [(PATH, {**body, "seed": None, "max_tokens": 30}) for _ in range(3)]
    answers = ask_all(app, [*others, (PATH, body), (PATH, {**body, "seed": 4})])
    texts = [answer.json()["choices"][0]["text"] for answer in answers]
    assert texts[3] == first and texts[4] != first and len({*texts[:3]}) == 3
    runs = []
    for _ in range(2):
        app, _ = make_watched(model, tokenizer, seed=7)
        runs.append([ask_all(app, [others[0]])[0].json()["choices"][0]["text"] for _ in range(2)])
    assert runs[0] == runs[1] and runs[0][0] != runs[0][1]


def test_streams_and_chats_share_a_batch(tokenizer):
    model = make_model(tokenizer, attention_types="linear, sliding")
    app, _ = make_watched(model, tokenizer)
    greedy = {"temperature": 0.0, "max_tokens": 9}
    chat = {"messages": MESSAGES, **greedy}
    requests = [("/v1/chat/completions", chat), ("/v1/chat/completions", {**chat, "stream": True})]
    requests += [("/v1/responses", {"input": MESSAGES[0]["content"], "temperature": 0.0, "max_output_tokens": 9})]
    whole, stream, item = ask_all(app, requests)
    text = whole.json()["choices"][0]["message"]["content"]
    lines = [line.removeprefix("data: ") for line in stream.text.splitlines() if line.startswith("data: {")]
    pieces = [choice["delta"].get("content") or "" for line in lines for choice in json.loads(line)["choices"]]
    assert text == item.json()["output"][0]["content"][0]["text"] != ""
    assert "".join(pieces).rstrip("�") == text.rstrip("�")  # half a character at the end is not streamed
    assert json.loads(lines[-1])["usage"] == whole.json()["usage"]


def test_words_that_end_an_answer(tokenizer):
    """Of one request, and of none beside it."""
    model = make_model(tokenizer)
    app, _ = make_watched(model, tokenizer)
    body = {"prompt": "the line", "temperature": 0.0, "max_tokens": 40}
    whole = ask_all(app, [(PATH, body)])[0].json()["choices"][0]["text"]
    stop = whole[9:11]
    cut, free = ask_all(app, [(PATH, {**body, "stop": stop}), (PATH, body)])
    inputs = tokenizer(body["prompt"], return_tensors="pt")
    made = model.generate(**inputs, do_sample=False, max_new_tokens=40, stop_strings=stop, tokenizer=tokenizer)
    expected = tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert cut.json()["choices"][0]["text"] == expected and len(expected) < len(whole)
    assert free.json()["choices"][0]["text"] == whole


def slow(model, seconds=0.02):
    """A model whose forward passes take at least some time."""
    model.register_forward_pre_hook(lambda *_: time.sleep(seconds))
    return model


LONG = {"prompt": "the line", "temperature": 0.0, "max_tokens": 400}
SHORT = {"prompt": "the line", "temperature": 0.0, "max_tokens": 2}


def test_a_short_request_does_not_wait_for_a_long_one(tokenizer):
    app, state = make_watched(slow(make_model(tokenizer), 0.005), tokenizer)

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            long = asyncio.ensure_future(client.post(PATH, json=LONG, timeout=120))
            await asyncio.sleep(0.3)
            answer = await client.post(PATH, json=SHORT, timeout=120)
            assert answer.status_code == 200 and not long.done()
            long.cancel()

    asyncio.run(run())
    state.shutdown()


@pytest.mark.parametrize("limits", [{"batch_requests": 1}, {"batch_tokens": 3}])
def test_too_many_are_told_to_come_again(tokenizer, limits):
    app, state = make_watched(slow(make_model(tokenizer)), tokenizer, max_queue=2, **limits)
    answers = ask_all(app, [(PATH, {**SHORT, "max_tokens": 30})] * 6, spread=0.02)
    codes = [answer.status_code for answer in answers]
    assert codes == [200, 200, 200, 429, 429, 429]
    assert answers[-1].headers["retry-after"] == "1"
    error = answers[-1].json()["error"]
    assert error["code"] == "rate_limit_exceeded" and "max_queue=2 requests wait already" in error["message"]
    assert 'trine_request_seconds_count{path="/v1/completions",status="429"} 3.0' in state.metrics.write().decode()


def test_time_is_over(tokenizer):
    app, state = make_watched(slow(make_model(tokenizer)), tokenizer, timeout=0.5, batch_requests=1)
    whole, waiting = ask_all(app, [(PATH, LONG)] * 2, spread=0.05)
    for answer in (whole, waiting):
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
    assert "request_timeout=0.5 seconds are over" in whole.json()["error"]["message"]
    (stream,) = ask_all(app, [(PATH, {**LONG, "stream": True})])
    last = json.loads(stream.text.strip().splitlines()[-1].removeprefix("data: "))
    assert last["error"]["code"] == "timeout" and stream.text.count("data: ") > 3
    (after,) = ask_all(app, [(PATH, SHORT)])  # the place is free
    assert after.status_code == 200
    wait_until(lambda: not state.manager._running and not state.manager._waiting)


def wait_until(is_so):
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("body", [LONG, {**LONG, "stream": True}, {**LONG, **WAYS[3], "max_tokens": 400}])
def test_who_goes_away_makes_room(tokenizer, body):
    """In the batch, with beams, and in the queue."""
    reads = []
    model = slow(make_model(tokenizer))
    model.register_forward_pre_hook(lambda *_: reads.append(1))
    app, state = make_watched(model, tokenizer, batch_requests=1)

    async def run():
        gone = asyncio.Event()

        def receiver():
            events = [{"type": "http.request", "body": json.dumps(body).encode()}]

            async def receive():
                if events:
                    return events.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            return receive

        async def send(event):
            pass

        scope = {"type": "http", "method": "POST", "path": PATH, "query_string": b"", "http_version": "1.1"}
        scope |= {"headers": [(b"content-type", b"application/json")], "client": ("here", 1), "scheme": "http"}
        scope |= {"server": ("localhost", 80), "root_path": "", "raw_path": PATH.encode(), "asgi": {"version": "3.0"}}
        both = [asyncio.ensure_future(app({**scope}, receiver(), send)) for _ in range(2)]
        while len(reads) < 4:
            await asyncio.sleep(0.01)
        gone.set()
        await asyncio.wait_for(asyncio.gather(*both), 20)

    asyncio.run(run())
    wait_until(lambda: not state.manager._running and not state.manager._waiting)
    time.sleep(0.2)
    count = len(reads)
    assert count < 60
    time.sleep(0.2)
    assert len(reads) == count
    (answer,) = ask_all(app, [(PATH, SHORT)])
    assert answer.status_code == 200


def test_what_the_model_does_wrong_is_told_and_over(tokenizer):
    model = make_model(tokenizer)
    app, state = make_watched(model, tokenizer)
    model.lm_head.weight.data.fill_(float("nan"))
    sampled, greedy = ask_all(app, [(PATH, {"prompt": "the", "max_tokens": 4}), (PATH, SHORT)])
    assert sampled.status_code == 500 and sampled.json()["error"]["type"] == "server_error"
    assert greedy.status_code == 200 and state.is_alive()

    def fail(*_):
        raise MemoryError("no room")

    handle = model.register_forward_pre_hook(lambda module, _: len(state.manager._running) > 1 and fail())
    slow(model)
    answers = ask_all(app, [(PATH, {**SHORT, "max_tokens": 20})] * 2)
    assert {answer.status_code for answer in answers} == {500}
    handle.remove()
    (after,) = ask_all(app, [(PATH, SHORT)])
    assert after.status_code == 200


def test_tokens_of_a_request_have_a_bound(tokenizer):
    app, _ = make_watched(make_model(tokenizer), tokenizer, max_tokens=20)
    free, long, much = ask_all(
        app,
        [(PATH, {"prompt": "the line"}), (PATH, {"prompt": "the line " * 20}), (PATH, {**SHORT, "max_tokens": 20})],
    )
    assert free.json()["usage"]["total_tokens"] == 20
    for answer in (long, much):
        assert answer.status_code == 400 and "max_tokens_per_request=20" in answer.json()["error"]["message"]


def test_another_model_is_not_there(tokenizer):
    app, _ = make_watched(make_model(tokenizer), tokenizer)
    requests = [
        ("/v1/chat/completions", {"messages": MESSAGES, "model": "other"}),
        (PATH, {"prompt": "a", "model": "other"}),
        ("/v1/responses", {"input": "a", "model": "other"}),
    ]
    for answer in ask_all(app, requests):
        error = answer.json()["error"]
        assert answer.status_code == 404 and error["code"] == "model_not_found" and error["param"] == "model"
        assert error["message"] == "model='other' is not served here, only 'mine'."


def test_a_server_that_closes(tokenizer):
    app, state = make_watched(slow(make_model(tokenizer)), tokenizer)

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            long = asyncio.ensure_future(client.post(PATH, json=LONG, timeout=120))
            await asyncio.sleep(0.3)
            app.is_closing = True
            refused, health = await client.post(PATH, json=SHORT), await client.get("/health")
            assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
            assert health.status_code == 200 and not long.done()
            state.shutdown()
            answer = await long
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "server_closing"
            app.is_closing = False
            assert (await client.post(PATH, json=SHORT)).status_code == 503
            wait_until(lambda: not state.is_alive())
            health = await client.get("/health")
            assert health.status_code == 503 and health.json()["status"] == "unhealthy"

    asyncio.run(run())
