"""The benchmark of servers sends what it says, at the times that it says, and counts what comes back."""

import re

import numpy as np
import pytest

from trine.scripts.benchmarks import servers
from trine.scripts.benchmarks.server_load import Answer, Load, arrivals, running, send, text_of
from trine.scripts.benchmarks.server_soak import growth, hits, rounds


# A server that echoes a prompt in two pieces, 50 ms apart, and refuses the prompt "bad".
ECHO = """
import asyncio, json, sys, uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
app = FastAPI()
@app.get("/health")
def health(): return {}
@app.post("/v1/completions")
async def complete(body: dict):
    text = body["prompt"]
    if text == "bad": return JSONResponse({"error": "no"}, 400)
    async def pieces():
        yield "data: " + json.dumps({"choices": [{"text": text[:1]}]}) + "\\n\\n"
        await asyncio.sleep(0.05)
        usage = {"completion_tokens": len(text)}
        yield "data: " + json.dumps({"choices": [{"text": text[1:]}], "usage": usage}) + "\\n\\n"
    if body.get("stream"): return StreamingResponse(pieces(), media_type="text/event-stream")
    return {"choices": [{"text": text}], "usage": {"completion_tokens": len(text)}}
uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""
COMMAND = ["-c", ECHO, "{port}"]


def test_answers_are_those_of_the_server():
    bodies = [{"prompt": "abc", "stream": True}, {"prompt": "de"}, {"prompt": "bad"}]
    with running(COMMAND, 1) as process:
        load = send(process, "/v1/completions", bodies, [0.2, 0.0, 0.0])
        assert process.cpu_seconds() > 0.05 and process.memory() > 2**22
        alive = process.process
    assert alive.poll() is not None
    stream, whole, refused = load.answers
    assert (stream.status, stream.content, stream.tokens) == (200, "abc", 3)
    assert stream.whole - stream.first > 0.04 and load.seconds > 0.25
    assert (whole.status, whole.content, whole.tokens) == (200, "de", 2) and whole.first == whole.whole
    assert refused.status == 400 and load.tokens == 5


def test_a_server_that_does_not_start():
    with pytest.raises(RuntimeError, match="The server does not answer: -c 1 / 0"), running(["-c", "1 / 0"], 1):
        pass


def test_times_are_those_of_a_poisson_process():
    times = arrivals(20_000, 4.0, 0)
    gaps = np.diff(times)
    assert gaps.min() >= 0 and gaps.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # of an exponential distribution
    assert arrivals(3, 0.0, 0) == [0.0] * 3 and arrivals(5, 1.0, 1) != arrivals(5, 1.0, 2)


def test_percentiles_are_those_of_numpy():
    load = Load([Answer(200, "", 1, float(n), 2.0 * n) for n in np.random.default_rng(0).permutation(1000)])
    for percent in (50, 95, 99):
        assert load.percentile(percent) == pytest.approx(2 * np.percentile(range(1000), percent), abs=2)
        assert load.percentile(percent, "first") == pytest.approx(np.percentile(range(1000), percent), abs=1)


def test_the_table(tmp_path, monkeypatch):
    names = (servers.OURS, servers.THEIRS)
    monkeypatch.setattr(servers, "commands", lambda *rest: dict.fromkeys(names, COMMAND))
    options = [
        "--requests",
        "6",
        "--rates",
        "0",
        "20",
        "--rounds",
        "2",
        "--hidden_size",
        "32",
        "--num_hidden_layers",
        "1",
    ]
    servers.main([*options, "--report", str(tmp_path / "report.md")])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \| \d+ \((.*?) x; .*?\) .* \| (\d+, \d+) \|$", text, re.MULTILINE)
    assert [row[:3] for row in rows] == [
        (model, name, rate) for model in ("Trine, full", "Llama") for name in names for rate in ("at once", "20.0")
    ]
    assert {row[4] for row in rows} == {"12, 12"}
    assert {row[3] for row in rows if row[1] == servers.THEIRS} == {"1.00"}


def test_memory_that_grows_is_told_from_memory_that_does_not():
    chance = np.random.default_rng(0)
    counts = np.arange(50, 10_050, 50)
    for true in (0.0, 3.0):
        inside = 0
        for _ in range(200):
            slope, error = growth([*zip(counts, 500 + true * counts / 1000 + chance.normal(size=200), strict=True)])
            inside += abs(slope - true) <= error
        assert 180 <= inside <= 199  # of an interval of 95 %
    filled = [*zip(counts, np.minimum(counts, 4000), strict=True)]  # caches that are full after 4,000 requests
    assert growth(filled) == pytest.approx((0, 0), abs=1e-9)
    assert np.isnan(growth(filled[:9])).all()


def test_hits_are_those_of_the_figures():
    figures = {
        'trine_cache_requests_total{cache="prefix",result="hit"}': 9,
        'trine_cache_requests_total{cache="prefix",result="miss"}': 1,
        'trine_tokens_total{kind="cached"}': 300,
        'trine_tokens_total{kind="prompt"}': 400,
        'trine_batch_size_sum{kind="generation"}': 50,
        'trine_batch_size_count{kind="generation"}': 20,
    }
    text = hits(figures)
    assert "prefix cache 0.900 of 10 requests, 0.750 of 400 tokens" in text and "2.50 rows" in text
    assert "response" not in text


def test_requests_of_all_kinds():
    bodies = [{"prompt": f"p{n}", "max_tokens": 4, "temperature": 0.0, "stream": True} for n in range(20)]
    asked = rounds(bodies, True)
    first, second = next(asked), next(asked)
    assert [*first] == ["/v1/completions", "/v1/chat/completions", "/v1/embeddings"]
    assert sum(map(len, first.values())) == 20 and "/v1/embeddings" not in next(rounds(bodies, False))
    texts = [[body["prompt"] for body in each["/v1/completions"]] for each in (first, second)]
    assert len({*texts[0]}) == 14 and 0 < len({*texts[0]} & {*texts[1]}) < 14  # some are asked again
    assert first["/v1/chat/completions"][0]["messages"][0]["content"].endswith("p6")
    assert text_of({"delta": {}}) == "" and text_of({"message": {"content": "a"}}) == "a" == text_of({"text": "a"})


def test_a_server_that_is_watched(tmp_path):
    """The real one: chats of three turns, and all kinds of requests for one round."""
    options = ["--requests", "10", "--hidden_size", "32", "--num_hidden_layers", "1", "--new_tokens", "4", "8"]
    options += ["--embeddings_only", "--chat_turns", "3", "--soak_seconds", "0.1"]
    servers.main([*options, "--report", str(tmp_path / "report.md")])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    share = re.search(r"8 chats of 3 turns at once, .* Hits: prefix cache (\S+) of 24 requests", text)
    assert share and float(share[1]) >= 16 / 24 - 1e-3  # all but the first turn
    soaked = re.search(r"The most in the caches: prefix (\S+) MiB, response (\S+) MiB", text)
    assert soaked and 0 < float(soaked[1]) <= 8 and float(soaked[2]) <= 1
    assert "memory " in text and "per 1,000 requests" in text


def test_wrong_options_are_named(capsys):
    for given, message in {
        ("--prompt_lengths", "9", "2"): "prompt_lengths=[9, 2] is not a least and a most number",
        ("--requests", "0"): "requests=0 must be at least 1",
        ("--rates", "-1"): "rates=[-1.0], soak_seconds=0.0, chat_turns=0 must be at least 0",
    }.items():
        with pytest.raises(SystemExit):
            servers.main([*given])
        assert message in capsys.readouterr().err


def test_a_server_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(servers, "commands", lambda *rest: {servers.OURS: ["-c", "1 / 0"]})
    with pytest.raises(SystemExit, match="trine benchmark servers: The server does not answer"):
        servers.main(["--hidden_size", "32", "--num_hidden_layers", "1"])
