"""transformers' server and chat with a Trine checkpoint give what `generate` gives."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import tiny_model
from tokenizer_texts import TEXTS

from trine import TrineForMaskedLM, train_byte_level_bpe
from trine.scripts import serve


pytest.importorskip("fastapi")
pytest.importorskip("openai")

PROMPTS = ["It's the reader", "def read_line(self", "Tschüß", "the"]
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


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(TEXTS, 420, show_progress=False, chat_template="chatml")


@pytest.fixture(scope="module")
def served(tokenizer, tmp_path_factory):
    """Folder and model, whose layers are what continuous batching serves, too."""
    folder = tmp_path_factory.mktemp("served")
    return folder, save(folder, tokenizer, attention_types="sliding, full")


@pytest.fixture(scope="module", params=["one by one", "continuous"])
def address(request, served):
    """Where the command serves the model, in a process of its own."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "trine.scripts.cli", "serve", "--model", str(served[0]), "--port", str(port)]
    options = ["--device", "cpu"]
    if request.param == "continuous":
        options += ["--continuous_batching", "--cb_num_blocks", "8", "--cb_max_batch_tokens", "128"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            wait_for(f"http://localhost:{port}/health", server)
            yield f"http://localhost:{port}"
        finally:
            server.kill()


def wait_for(url: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        assert server.poll() is None, server.stdout and server.stdout.read()
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


# Errors


def errors(folder, tokenizer):
    encoder = tiny_model(TrineForMaskedLM, dtype=torch.float32, is_causal=False, vocab_size=len(tokenizer))
    encoder.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    save(folder / "chunked", tokenizer, attention_types="chunked")
    return {
        "nowhere": ([], "nowhere"),
        "encoder": ([], "architectures=['TrineForMaskedLM'] of .* is not ['TrineForCausalLM']"),
        "chunked": (["--continuous_batching"], "attention_types[0]='chunked' is not one of ['full', 'sliding']"),
    }


def test_models_that_cannot_be_served_are_named(tokenizer, tmp_path):
    for name, (options, message) in errors(tmp_path, tokenizer).items():
        pattern = "trine serve: .*" + message.replace("[", r"\[").replace("]", r"\]")
        with pytest.raises(SystemExit, match=pattern):
            serve.main(["--model", str(tmp_path / name), *options])


def test_wrong_options_are_named(capsys):
    for options, message in {
        ("--port", "70000"): "port=70000 must be from 1 to 65535",
        ("--cb_num_blocks", "3"): "cb_num_blocks=3 needs continuous_batching",
        ("--continuous_batching", "--cb_max_batch_tokens", "-1"): "cb_max_batch_tokens=-1 must be at least 1",
    }.items():
        with pytest.raises(SystemExit):
            serve.main(["--model", "x", *options])
        assert message in capsys.readouterr().err


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(serve, "is_serve_available", lambda: False)
    with pytest.raises(SystemExit, match=r"pip install 'trine\[serving\]'"):
        serve.main(["--model", "x"])


def test_a_missing_chat_template_is_told_and_options_reach_the_library(
    served, tokenizer, tmp_path, monkeypatch, capsys
):
    save(tmp_path, train_byte_level_bpe(TEXTS, 420, show_progress=False), model=served[1])
    started = []
    monkeypatch.setattr("transformers.cli.serve.Serve", lambda model, **options: started.append((model, options)))
    serve.main(["--model", str(tmp_path), "--port", "8123", "--device", "cpu", "--continuous_batching"])
    assert "no chat template" in capsys.readouterr().err
    ((model, options),) = started
    assert model == str(tmp_path) and options["port"] == 8123 and options["continuous_batching"]
