"""The benchmark of servers sends what it says, at the times that it says, and counts what comes back."""

import re

import numpy as np
import pytest

from trine.scripts.benchmarks import servers
from trine.scripts.benchmarks.server_load import Answer, Load, arrivals, running, send


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
    options = ["--requests", "6", "--rates", "0", "20", "--hidden_size", "32", "--num_hidden_layers", "1"]
    servers.main([*options, "--report", str(tmp_path / "report.md")])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \| \d+ \((.*?) x\) .* \| (\d+, \d+) \|$", text, re.MULTILINE)
    assert [row[:3] for row in rows] == [
        (model, name, rate) for model in ("Trine, full", "Llama") for name in names for rate in ("at once", "20.0")
    ]
    assert {row[4] for row in rows} == {"6, 6"}
    assert {row[3] for row in rows if row[1] == servers.THEIRS} == {"1.00"}


def test_wrong_options_are_named(capsys):
    for given, message in {
        ("--prompt_lengths", "9", "2"): "prompt_lengths=[9, 2] is not a least and a most number",
        ("--requests", "0"): "requests=0 must be at least 1",
        ("--rates", "-1"): "rates=[-1.0], soak_seconds=0.0 must be at least 0",
    }.items():
        with pytest.raises(SystemExit):
            servers.main([*given])
        assert message in capsys.readouterr().err


def test_a_server_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(servers, "commands", lambda *rest: {servers.OURS: ["-c", "1 / 0"]})
    with pytest.raises(SystemExit, match="trine benchmark servers: The server does not answer"):
        servers.main(["--hidden_size", "32", "--num_hidden_layers", "1"])
