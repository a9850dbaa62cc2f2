"""transformers' server and chat with a Trine checkpoint give what `generate` gives."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support.served import MESSAGES, make_tokenizer, save


pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

PROMPTS = ["It's the reader", "def read_line(self", "Tschüß", "the"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def served(tokenizer, tmp_path_factory):
    """Folder and model, whose layers are what continuous batching serves, too."""
    folder = tmp_path_factory.mktemp("served")
    return folder, save(folder, tokenizer, attention_types="sliding, full")


@pytest.fixture(scope="module", params=["one by one", "continuous"])
def address(request, served, tmp_path_factory):
    """Where the command serves the model, in a process of its own without a folder for the Hub.

    In the end a signal ends it while it is busy: at once, with status 0 and without a traceback.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "trine.scripts.cli", "serve", "--model", str(served[0]), "--port", str(port)]
    options, stop = ["--device", "cpu"], signal.SIGINT
    if request.param == "continuous":
        options += ["--continuous_batching", "--cb_num_blocks", "8", "--cb_max_batch_tokens", "128"]
        stop = signal.SIGTERM
    log = tmp_path_factory.mktemp("log") / "log.txt"
    environment = os.environ | {"HF_HOME": str(log.parent / "none")}
    with log.open("w") as file:
        server = subprocess.Popen([*command, *options], stdout=file, stderr=file, env=environment)
    try:
        wait_for(f"http://localhost:{port}/health", server, log)
        yield f"http://localhost:{port}"
        with endless_request(f"http://localhost:{port}"):
            server.send_signal(stop)
            assert server.wait(timeout=60) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        server.kill()


@contextmanager
def endless_request(address: str):
    """A request that takes minutes, whose client goes away in the end."""
    body = json.dumps({"prompt": "the", "max_tokens": 200_000, "logit_bias": {str(i): -100 for i in range(9)}})
    host = address.removeprefix("http://")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(host.split(":")) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        yield


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.2)
    raise TimeoutError(url)


def ask(url: str, **body) -> str:
    data = json.dumps({"temperature": 0.0, "max_tokens": 12, **body}).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=240) as answer:
        return answer.read().decode()


def events(text: str) -> list[dict]:
    """The chunks of a stream."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def expected(model, tokenizer, ids: torch.Tensor) -> str:
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)


def expected_answer(model, tokenizer) -> str:
    inputs = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt")
    return expected(model, tokenizer, inputs["input_ids"])


def test_chats_are_answered(address, served, tokenizer):
    answer = json.loads(ask(f"{address}/v1/chat/completions", messages=MESSAGES))
    assert answer["choices"][0]["message"]["content"] == expected_answer(served[1], tokenizer) != ""


def test_answers_are_streamed(address, served, tokenizer):
    chunks = events(ask(f"{address}/v1/chat/completions", messages=MESSAGES, stream=True))
    pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", [])]
    assert "".join(pieces) == expected_answer(served[1], tokenizer)
    assert sum(map(bool, pieces)) > 1


def test_texts_are_completed_at_the_same_time(address, served, tokenizer):
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = list(pool.map(lambda prompt: ask(f"{address}/v1/completions", prompt=prompt), PROMPTS))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        assert json.loads(answer)["choices"][0]["text"] == expected(served[1], tokenizer, ids)


def test_completions_are_streamed(address, served, tokenizer):
    chunks = events(ask(f"{address}/v1/completions", prompt=PROMPTS[0], stream=True))
    text = "".join(choice["text"] for chunk in chunks for choice in chunk.get("choices", []))
    assert text == expected(served[1], tokenizer, tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"])


def test_the_librarys_chat_talks_to_it(address, served, tokenizer):
    """Without the look for a newer version with which the library's command begins."""
    app = "from transformers.cli.transformers import app; app()"
    chat = [sys.executable, "-c", app, "chat", str(served[0]), address]
    done = subprocess.run(
        [*chat, "do_sample=False", "max_new_tokens=12"],
        input=f"{MESSAGES[0]['content']}\nn\n!exit\n",
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "0"},  # the client of the Hub asks this computer only
    )
    assert done.returncode == 0, done.stderr
    words = expected_answer(served[1], tokenizer).split()
    assert words and words[0] in done.stdout


def test_an_abandoned_request_does_not_block_the_next(address, served, tokenizer):
    with endless_request(address):
        pass
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    answer = json.loads(ask(f"{address}/v1/completions", prompt=PROMPTS[0]))
    assert answer["choices"][0]["text"] == expected(served[1], tokenizer, ids)


def test_the_client_of_openai_is_served(address, served, tokenizer):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    (card,) = client.models.list()
    assert card.id == str(served[0]) == client.models.retrieve(card.id).id
    options = {"model": card.id, "temperature": 0}
    chat = client.chat.completions.create(messages=MESSAGES, max_tokens=12, **options)
    assert chat.choices[0].message.content == expected_answer(served[1], tokenizer)
    answer = client.responses.create(input=MESSAGES[0]["content"], max_output_tokens=12, **options)
    assert answer.output_text == expected_answer(served[1], tokenizer)
    with pytest.raises(openai.NotFoundError, match="model='x' is not served"):
        client.models.retrieve("x")
    with pytest.raises(openai.BadRequestError, match="max_tokens=-1 must be a whole number of at least 1") as caught:
        client.completions.create(prompt="the", max_tokens=-1, **options)
    assert caught.value.param == "max_tokens" and caught.value.type == "invalid_request_error"
