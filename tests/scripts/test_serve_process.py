"""The server as a process: what clients see when it is killed, what outlives that, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from support.served import make_tokenizer, save


pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

BODY = {"prompt": "the line", "temperature": 0.0, "max_tokens": 6}
LONG = {**BODY, "max_tokens": 1800, "stream": True}
KEY = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("served"), make_tokenizer()
    save(folder, tokenizer, attention_types="sliding, linear")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": None}))
    return folder


@contextmanager
def served(folder, port, *options):
    """A process that serves, once it is ready. While it loads, it says so."""
    command = [sys.executable, "-m", "trine.scripts.cli", "serve", "--model", str(folder), "--port", str(port)]
    command += ["--device", "cpu", "--access_log", "json", *options]
    environment = {**os.environ, "TRINE_API_KEY": "secret"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    states, end = [], time.monotonic() + 240
    try:
        while not states or states[-1] != "ok":
            assert process.poll() is None and time.monotonic() < end
            try:
                states.append(httpx.get(f"http://localhost:{port}/health", timeout=10).json()["status"])
            except httpx.TransportError:
                time.sleep(0.05)
        assert {*states} <= {"loading", "ok"}
        yield process, f"http://localhost:{port}/v1/completions"
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def free_port():
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def test_a_killed_server(folder, tmp_path):
    options = ("--response_cache", "1MiB", "--response_cache_dir", str(tmp_path / "answers"))
    with served(folder, free_port(), *options) as (process, url):
        first = httpx.post(url, json=BODY, headers=KEY, timeout=60)
        assert first.status_code == 200 and first.headers["x-trine-cache"] == "miss"
        with httpx.stream("POST", url, json=LONG, headers=KEY, timeout=60) as stream:
            pieces = stream.iter_lines()
            assert next(pieces).startswith("data: ")
            process.kill()
            with pytest.raises(httpx.TransportError):  # not an end that looks like one
                list(pieces)
        with pytest.raises(httpx.ConnectError):
            httpx.post(url, json=BODY, headers=KEY, timeout=10)
    with served(folder, free_port(), *options) as (process, url):
        again = httpx.post(url, json=BODY, headers=KEY, timeout=60)
        assert again.headers["x-trine-cache"] == "hit"
        assert again.json()["choices"] == first.json()["choices"]
        assert httpx.post(url, json=LONG, headers=KEY, timeout=60).headers["x-trine-cache"] == "miss"
        assert httpx.post(url, json=BODY, timeout=60).status_code == 401


def test_a_server_that_is_told_to_end(folder):
    with served(folder, free_port(), "--grace_seconds", "60") as (process, url):
        done = []
        waiting = threading.Thread(target=lambda: done.append(httpx.post(url, json=LONG, headers=KEY, timeout=60)))
        waiting.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        refused = httpx.post(url, json=BODY, headers=KEY, timeout=10)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "server_closing"
        waiting.join()
        last = [line for line in done[0].text.splitlines() if line.startswith("data: {")][-1]
        usage = json.loads(last.removeprefix("data: "))["usage"]
        assert done[0].status_code == 200 and usage["completion_tokens"] == 1800
        assert process.wait(timeout=60) == 0 and process.stderr is not None
        log = [json.loads(line) for line in process.stderr.read().splitlines() if line.startswith('{"time"')]
        found = [(line["status"], line.get("new_tokens")) for line in log if line["path"] == "/v1/completions"]
        assert found == [(503, None), (200, 1800)]
