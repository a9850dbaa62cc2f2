"""Who may ask the server, how much they may send, what it tells about itself, and 200 requests that are wrong."""

import asyncio
import json
import random
import string
from types import SimpleNamespace

import httpx
import pytest
import torch
from support.served import MESSAGES, ask_all, make_tokenizer, make_watched
from support.tiny import tiny_model
from transformers import GenerationConfig

from trine.scripts import serve
from trine.scripts.arguments.serving import ServeArguments


pytest.importorskip("fastapi")

PATH = "/v1/completions"
SHORT = {"prompt": "the line", "temperature": 0.0, "max_tokens": 2}


@pytest.fixture(scope="module")
def watched():
    tokenizer = make_tokenizer()
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "position_type": "learned"}
    model = tiny_model(dtype=torch.float32, attn="sdpa", eos_token_id=None, num_hidden_layers=1, **size)
    return make_watched(model, tokenizer)


def call(app, method="POST", path=PATH, headers=None, **options):
    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=headers, **options)

    return asyncio.run(run())


def test_keys(watched):
    from trine.scripts.serving.guards import ApiKeys

    app = ApiKeys(watched[0], ["secret", "other"])
    for header in (None, "secret", "Bearer", "Bearer ", "Bearer secre", "Bearer secrets", "Basic secret", "Bearer ä"):
        headers = {} if header is None else {"Authorization": header.encode("latin-1")}
        answer = call(app, headers=headers, json=SHORT)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key", header
        assert answer.headers["www-authenticate"] == "Bearer"
    for header in ("Bearer secret", "bearer other"):
        assert call(app, headers={"Authorization": header}, json=SHORT).status_code == 200
    assert call(app, "GET", "/health").status_code == 200
    assert call(app, "GET", "/metrics").status_code == call(app, "GET", "/v1/models").status_code == 401


def test_where_keys_come_from(tmp_path, monkeypatch):
    monkeypatch.setenv("TRINE_API_KEY", "of-the-variable")
    file = tmp_path / "keys"
    file.write_text("first\n\n second \n", encoding="utf-8")
    arguments = ServeArguments(model="x", api_key="given", api_key_file=str(file))
    assert arguments.keys() == ["given", "of-the-variable", "first", "second"]
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="keys' has no key"):
        arguments.keys()
    for key in ("", "a b", "ä", "a\tb"):
        with pytest.raises(ValueError, match="An API key must be letters, digits and signs of ASCII"):
            ServeArguments(model="x", api_key=key).keys()
    monkeypatch.delenv("TRINE_API_KEY")
    assert ServeArguments(model="x").keys() == []
    with pytest.raises(OSError, match="nowhere"):
        ServeArguments(model="x", api_key_file=str(tmp_path / "nowhere")).keys()


def test_bodies_have_a_bound(watched):
    from trine.scripts.serving.guards import BodyLimit

    app = BodyLimit(watched[0], 200)
    assert call(app, json=SHORT).status_code == 200
    large = json.dumps({**SHORT, "user": "x" * 300})

    async def pieces():
        for start in range(0, len(large), 50):
            yield large[start : start + 50].encode()

    for content in (large, pieces()):  # with a length and without one
        answer = call(app, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413 and "more than max_body=200 bytes" in answer.json()["error"]["message"]


def test_it_loads_before_it_answers(watched):
    from trine.scripts.serving.metrics import Metrics
    from trine.scripts.serving.watch import Watch

    lines = []
    watch = Watch(Metrics(), log=True, write=lines.append)
    health = call(watch, "GET", "/health")
    assert health.status_code == 503 and health.json() == {"status": "loading"}
    answer = call(watch, json=SHORT)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "loading"
    watch.app = watched[0].app
    assert call(watch, "GET", "/health").json() == {"status": "ok"}
    call(watch, json={**SHORT, "prompt": "private words"})
    logged = [json.loads(line) for line in lines]
    assert [line["status"] for line in logged] == [503, 503, 200, 200]
    assert logged[3]["path"] == PATH and logged[3]["new_tokens"] == 2 and logged[3]["prompt_tokens"] > 2
    assert "private" not in "".join(lines)


def test_figures_are_those_of_the_requests(watched):
    app, state = watched
    before = figures(state)
    answers = ask_all(app, [(PATH, SHORT)] * 3 + [(PATH, {"prompt": ""}), ("/x" + "y" * 9, {})])
    assert [answer.status_code for answer in answers] == [200] * 3 + [400, 404]
    after = figures(state)

    def added(name):
        return after.get(name, 0.0) - before.get(name, 0.0)

    usage = answers[0].json()["usage"]
    assert added('trine_request_seconds_count{path="/v1/completions",status="200"}') == 3
    assert added('trine_request_seconds_count{path="/v1/completions",status="400"}') == 1
    assert added('trine_request_seconds_count{path="other",status="404"}') == 1
    assert added("trine_first_token_seconds_count") == 3
    assert added('trine_tokens_total{kind="prompt"}') == 3 * usage["prompt_tokens"]
    assert added('trine_tokens_total{kind="generated"}') == 3 * usage["completion_tokens"] == 6
    assert after['trine_queue_length{kind="generation"}'] == after["trine_active_requests"] == 0
    text = call(app, "GET", "/metrics")
    assert text.headers["content-type"].startswith("text/plain") and "trine_batch_size_bucket" in text.text


def figures(state):
    lines = state.metrics.write().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def test_energy_is_told_with_what_it_is():
    pytest.importorskip("codecarbon")
    from trine.scripts.serving.metrics import Metrics

    metrics = Metrics("DEU")
    torch.randn(600, 600) @ torch.randn(600, 600)
    metrics.request("/v1/embeddings", 200, 0.1)
    metrics.request("/v1/embeddings", 200, 0.1)
    found = figures(SimpleNamespace(metrics=metrics))
    (kind,) = {name.split("{")[1] for name in found if name.startswith("trine_energy_joules")}
    assert kind in ('is_estimated="true"}', 'is_estimated="false"}')
    joules = found["trine_energy_joules{" + kind]
    assert joules > 0 and found["trine_energy_joules_per_request{" + kind] == pytest.approx(joules / 2)
    assert found["trine_co2_grams{" + kind] > 0
    later = figures(SimpleNamespace(metrics=metrics))
    assert later["trine_energy_joules{" + kind] >= joules
    with pytest.raises(ValueError, match="country='XYZ' must be the three letters"):
        Metrics("XYZ")


def junk(random_, depth=0):
    """A random value of JSON."""
    texts = ["", "\ud800", "x" * 5000, "".join(random_.choices(string.printable, k=9)), "null", "\0"]
    numbers = [0, -1, 2**70, -(2**63), 1e308, 1.5, float("1e999"), True, None]
    if depth < 3 and random_.random() < 0.5:
        parts = [junk(random_, depth + 1) for _ in range(random_.randint(0, 3))]
        return parts if random_.random() < 0.5 else {random_.choice(["role", "a", "text"]): part for part in parts}
    return random_.choice(texts + numbers)


def test_two_hundred_wrong_requests_have_a_reason(watched):
    """None is a fault of the server, and none stops it."""
    random_ = random.Random(0)
    needed = {PATH: "prompt", "/v1/chat/completions": "messages", "/v1/responses": "input"}
    good = {"prompt": "the line", "messages": MESSAGES, "input": "the line"}
    fields = [
        "max_tokens",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "stream",
        "logit_bias",
        "generation_config",
        "tools",
    ]
    fields += ["tools", "frequency_penalty", "chat_template_kwargs", "suffix", "n", "nonsense", "max_output_tokens"]
    settings = [*GenerationConfig().to_dict()]
    app, asked = watched[0], []
    while len(asked) < 260:
        path = random_.choice([*needed])
        body = {needed[path]: good[needed[path]], "max_tokens": 2}
        if path == "/v1/responses":
            body = {"input": "the line", "max_output_tokens": 2}
        for name in random_.sample([*fields, needed[path]], random_.randint(1, 3)):
            body[name] = junk(random_)
        if random_.random() < 0.3:
            names = random_.sample(settings, 2)
            body["generation_config"] = json.dumps({name: random_.choice([junk(random_), 2, [1]]) for name in names})
        asked.append((path, body))
    answers = ask_raw(app, asked)
    wrong = [(body, answer) for (_, body), answer in zip(asked, answers, strict=True) if answer.status_code != 200]
    assert len(wrong) >= 200
    for body, answer in wrong:
        assert 400 <= answer.status_code < 500, (body, answer.text)
        assert len(answer.json()["error"]["message"]) > 10, (body, answer.text)
    for body in ("", "[", "[]", "3", '"a"', '{"prompt": ', b"\xff\xfe", "{'a': 1}"):
        answer = call(app, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and "JSON" in answer.json()["error"]["message"], body
    assert call(app, json=SHORT).status_code == 200


def ask_raw(app, requests):
    headers = {"Content-Type": "application/json"}
    return [call(app, path=path, content=json.dumps(body).encode(), headers=headers) for path, body in requests]


def test_wrong_options_are_named(capsys):
    for options, message in {
        ("--batch_requests", "0"): "batch_requests=0 must be at least 1",
        ("--batch_tokens", "0"): "batch_tokens=0 must be at least 1",
        ("--batch_wait_ms", "-1"): "batch_wait_ms=-1.0 must be at least 0",
        ("--max_queue", "0"): "max_queue=0 must be at least 1",
        ("--max_tokens_per_request", "0"): "max_tokens_per_request=0 must be at least 1",
        ("--request_timeout", "0"): "request_timeout=0.0 must be above 0",
        ("--request_timeout", "nan"): "request_timeout=nan must be above 0",
        ("--grace_seconds", "-2"): "grace_seconds=-2.0 must be at least 0",
        ("--max_body", "big"): "max_body='big' is not a size",
        ("--response_cache", "0"): "response_cache='0' is not a size",
        ("--response_cache_dir", "x"): "response_cache_dir='x' needs --response_cache",
        ("--access_log", "xml"): "access_log='xml' is not one of",
    }.items():
        with pytest.raises(SystemExit):
            serve.main(["--model", "x", *options])
        assert message in capsys.readouterr().err
