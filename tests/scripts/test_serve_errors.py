"""What the server and its command refuse, and how they say so."""

import json
import socket

import pytest
import torch
from support.served import MESSAGES, make_tokenizer, save
from support.tiny import tiny_model
from support.tokenizer_texts import TEXTS
from transformers import AutoTokenizer

from trine import TrineForMaskedLM, train_byte_level_bpe
from trine.scripts import serve
from trine.scripts.arguments.chat_template import set_chat_template
from trine.scripts.serving import request_checks


pytest.importorskip("fastapi")

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def served(tokenizer, tmp_path_factory):
    """Folder and model, whose layers are what continuous batching serves, too."""
    folder = tmp_path_factory.mktemp("served")
    return folder, save(folder, tokenizer, attention_types="sliding, full")


@pytest.fixture
def client(tokenizer):
    """The application in this process, with a model of 32 learned positions."""
    from fastapi.testclient import TestClient

    from trine.scripts.serving.app import make_app
    from trine.scripts.serving.decoder import Decoder
    from trine.scripts.serving.guards import AllowedHosts
    from trine.scripts.serving.managers import OneModel

    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "position_type": "learned"}
    model = tiny_model(dtype=torch.float32, attn="sdpa", eos_token_id=None, **size)
    state = OneModel()
    app = AllowedHosts(make_app([Decoder("mine", model, tokenizer, state)], state), {"localhost"}, False)
    return TestClient(app, "http://localhost", raise_server_exceptions=False)


NUMBER, LIST = "must be a whole number of at least 1", "must be a list of at least one message"
PICTURE = {"role": "user", "content": [{"type": "image_url"}]}
BAD_FIELDS = [
    *[("completions", {"max_tokens": value}, f"max_tokens={value!r} {NUMBER}") for value in (-1, 0, "x")],
    ("completions", {"max_tokens": True}, NUMBER),
    ("chat/completions", {"max_completion_tokens": 0}, NUMBER),
    ("responses", {"max_output_tokens": 1.5}, NUMBER),
    ("completions", {"temperature": -1}, "a number of at least 0"),
    ("completions", {"top_p": 0}, "a number above 0 and at most 1"),
    ("completions", {"frequency_penalty": -1}, "a number above -1"),
    ("completions", {"seed": 2**64}, "a whole number of 64 bits"),
    ("completions", {"stop": [""]}, "none of them empty"),
    ("completions", {"stream": "yes"}, "true or false"),
    ("completions", {"logit_bias": {"a": 1}}, "token ids to numbers"),
    ("completions", {"generation_config": "{"}, "generation_config cannot be read"),
    ("completions", {"generation_config": "[]"}, "generation_config cannot be read"),
    ("completions", {"generation_config": '{"max_new_tokens": "x"}'}, "generation_config cannot be read"),
    ("completions", {"generation_config": '{"num_beams": 0}'}, "num_beams=0 must be a whole number from 1 to 64"),
    ("completions", {"generation_config": '{"top_p": 2}'}, "top_p=2 must be a number above 0 to 1"),
    ("completions", {"generation_config": '{"bad_words_ids": [[-2]]}'}, "must be a list of lists of token ids"),
    ("completions", {"generation_config": '{"guidance_scale": 3}'}, "guidance_scale is not one of"),
    ("completions", {"generation_config": '{"topk": 1}'}, "topk is not one of"),
    ("completions", {"suffix": 1}, "suffix=1 must be a text"),
    ("chat/completions", {"tools": ["a"]}, "tools=['a'] must be a list"),
    ("chat/completions", {"chat_template_kwargs": 3}, "chat_template_kwargs=3 must be a mapping"),
    ("completions", {"n": 2}, "n=2 is not served"),
    ("chat/completions", {"response_format": {"type": "json_object"}}, "is not served"),
    ("completions", {"prompt": ""}, "prompt='' must be one text that is not empty"),
    ("completions", {"prompt": None}, "prompt=None must be"),
    ("completions", {"prompt": ["a"]}, "must be one text"),
    ("completions", {"prompt": "\ud800"}, "half a character"),
    ("chat/completions", {"messages": None}, f"messages=None {LIST}"),
    ("chat/completions", {"messages": []}, LIST),
    ("chat/completions", {"messages": ["hi"]}, "must have a role"),
    ("chat/completions", {"messages": [{"role": "user"}]}, "content=None must be a text"),
    ("chat/completions", {"messages": [PICTURE]}, "parts of text"),
    ("chat/completions", {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "cannot write the messages"),
    ("responses", {"input": ""}, "input='' must be"),
    ("responses", {"input": [{"role": "user", "content": "a"}, {"type": "reasoning", "content": [{}]}]}, "KeyError"),
    ("completions", {"prompt": "the " * 60}, "and the model 32 positions"),
    ("completions", {"prompt": "the", "max_tokens": 40}, "max_tokens=40 it would reach beyond"),
    ("completions", {"prompt": "the", "generation_config": '{"max_new_tokens": 40}'}, "it would reach beyond"),
]


@pytest.mark.parametrize(("route", "fields", "message"), BAD_FIELDS)
def test_wrong_requests_are_answered_with_the_reason(client, route, fields, message):
    needed = {
        "completions": {"prompt": "the"},
        "chat/completions": {"messages": MESSAGES},
        "responses": {"input": "a"},
    }
    answer = client.post(f"/v1/{route}", content=json.dumps({**needed[route], **fields}), headers=JSON)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert message in error["message"] and error["type"] == "invalid_request_error"


def test_errors_of_routes_have_the_same_form(client):
    for body in ("[", "[]", ""):
        answer = client.post("/v1/completions", content=body, headers=JSON)
        assert answer.status_code == 400 and "JSON object" in answer.json()["error"]["message"]
    refused = client.post("/load_model", json={"model": "another/model"})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "model='another/model' is not served, only 'mine'."
    assert "ready" in client.post("/load_model", json={"model": "mine"}).text
    assert client.post("/reset").status_code == 404
    unknown = client.post("/v1/completions", json={"prompt": "the", "promt": "x"})
    assert unknown.status_code == 422 and "promt" in unknown.json()["error"]["message"]


def test_an_error_within_a_stream_is_json(client):
    cold = json.dumps({"do_sample": True, "temperature": 0.0, "max_new_tokens": 4})
    text = client.post("/v1/completions", json={"prompt": "the", "stream": True, "generation_config": cold}).text
    assert "temperature" in json.loads(text.removeprefix("data: "))["error"]["message"]


def test_a_fault_of_the_server_is_not_the_clients(client, monkeypatch):
    monkeypatch.setattr("trine.scripts.serving.decoder.check_fields", lambda body: 1 / 0)
    answer = client.post("/v1/completions", json={"prompt": "the"})
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"


def test_the_default_length_ends_where_the_positions_end(client, tokenizer):
    answer = client.post("/v1/completions", json={"prompt": "the"}).json()
    count = len(tokenizer("the")["input_ids"])
    assert answer["usage"]["completion_tokens"] == 33 - count  # the last one is written and never read


def test_a_text_without_tokens_is_refused():
    with pytest.raises(request_checks.BadRequest, match="The text has no token"):
        request_checks.find_room(0, None, None)


def test_a_chat_without_a_template_is_refused(client, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    for route, body in (("chat/completions", {"messages": MESSAGES}), ("responses", {"input": "hi"})):
        answer = client.post(f"/v1/{route}", json=body)
        assert answer.status_code == 400 and "--chat_template chatml" in answer.json()["error"]["message"]


def test_foreign_hosts_are_refused(client):
    for host in ("evil.com", "localhost.evil.com", "192.168.0.7", "[", "", "[::1]:8000"):
        answer = client.get("/v1/models", headers={"Host": host})
        assert answer.status_code == 403 and "--allowed_hosts" in answer.json()["error"]["message"], host
    assert client.get("/v1/models", headers={"Host": "LOCALHOST:8123"}).status_code == 200


@pytest.mark.parametrize(
    ("names", "any_address", "allowed", "refused"),
    [
        ({"localhost", "::1"}, False, ["localhost", "localhost:1", "[::1]:8000"], ["10.0.0.1", "a.b", "[::2]"]),
        ({"localhost"}, True, ["10.0.0.1:80", "[fe80::1]"], ["evil.com", "10.0.0.1.evil.com", ""]),
        ({"*"}, False, ["evil.com", "10.0.0.1"], [""]),
    ],
)
def test_which_hosts_are_allowed(names, any_address, allowed, refused):
    for host, expectation in [(host, True) for host in allowed] + [(host, False) for host in refused]:
        assert request_checks.is_allowed(request_checks.host_of(host), names, any_address) == expectation, host


def wrong_models(folder, tokenizer):
    encoder = tiny_model(TrineForMaskedLM, dtype=torch.float32, is_causal=False, vocab_size=len(tokenizer))
    encoder.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    save(folder / "chunked", tokenizer, attention_types="chunked")
    return {
        "nowhere": ([], "nowhere"),
        "encoder": (
            [],
            "architectures=['TrineForMaskedLM'] of .* is not one of .*'TrineForConditionalGeneration'",
        ),
        "chunked": (["--continuous_batching"], "attention_types[0]='chunked' is not one of ['full', 'sliding']"),
    }


def test_models_that_cannot_be_served_are_named(tokenizer, tmp_path):
    for name, (options, message) in wrong_models(tmp_path, tokenizer).items():
        pattern = "trine serve: .*" + message.replace("[", r"\[").replace("]", r"\]")
        with pytest.raises(SystemExit, match=pattern):
            serve.main(["--model", str(tmp_path / name), *options])


def test_an_address_that_is_taken_is_named_before_the_model_is_loaded(served, monkeypatch):
    monkeypatch.setattr(serve, "serve", None)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit, match="cannot be listened on"):
        serve.main(["--model", str(served[0]), "--host", "127.0.0.1", "--port", str(taken.getsockname()[1])])


def test_wrong_options_are_named(capsys):
    for options, message in {
        ("--port", "70000"): "port=70000 must be from 1 to 65535",
        ("--cb_num_blocks", "3"): "cb_num_blocks=3 needs continuous_batching",
        ("--continuous_batching", "--cb_max_batch_tokens", "-1"): "cb_max_batch_tokens=-1 must be at least 1",
        ("--device", "foo"): "device='foo' is not one of ['cpu'",
        ("--device", "99"): "device='99' is not one of ['cpu'",
        ("--log_level", "loud"): "log_level='loud' is not one of",
        ("--vectors_dtype", "int4"): "vectors_dtype='int4' is not one of",
        ("--vectors_dtype", "bfloat16"): "vectors_dtype='bfloat16' needs an --embedding_model or a --rerank_model",
    }.items():
        with pytest.raises(SystemExit):
            serve.main(["--model", "x", *options])
        assert message in capsys.readouterr().err
    with pytest.raises(OSError, match="api_key_file='nothere' cannot be read: .*No such file"):
        serve.ServeArguments(model="x", api_key_file="nothere").keys()


@pytest.fixture
def without_template(served, tmp_path):
    """The folder of a model whose tokenizer has neither a chat template nor its marks."""
    plain = train_byte_level_bpe(TEXTS, 420, show_progress=False)
    plain.save_pretrained(tmp_path)
    served[1].save_pretrained(tmp_path)
    return tmp_path


def test_a_missing_chat_template_is_told_or_given(without_template, monkeypatch, capsys):
    started = []

    def load(arguments):
        started.append(serve.load(arguments))

    monkeypatch.setattr(serve, "serve", load)
    monkeypatch.setattr(serve, "check_address", lambda host, port: None)
    words = ["--model", str(without_template), "--device", "cpu"]
    serve.main(words)
    assert "no chat template" in capsys.readouterr().err
    serve.main([*words, "--chat_template", "chatml"])
    (without_template / "mine.jinja").write_text("{{ messages[0].content }}!")
    serve.main([*words, "--chat_template", str(without_template / "mine.jinja")])
    assert "no chat template" not in capsys.readouterr().err
    texts = [tokenizer.apply_chat_template(MESSAGES, tokenize=False) for _, tokenizer in started[1:]]
    end = started[1][1].eos_token
    assert texts == [f"<|im_start|>user\n{MESSAGES[0]['content']}{end}\n", f"{MESSAGES[0]['content']}!"]


def test_a_chat_template_that_does_not_fit_is_refused(without_template):
    tokenizer = AutoTokenizer.from_pretrained(without_template)
    with pytest.raises(ValueError, match=r"chat_template='chatlm' is neither .* Did you mean 'chatml'"):
        set_chat_template(tokenizer, "chatlm")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"ends a message with '<\|im_end\|>', which the tokenizer lacks"):
        set_chat_template(tokenizer, "chatml")
    with pytest.raises(ValueError, match=r"'plain' ends a message with the eos_token, which the tokenizer lacks"):
        set_chat_template(tokenizer, "plain")
