"""A config with a value of the wrong type is one line of every command that reads a model, not a traceback."""

import json
from importlib import import_module

import pytest
from support.tiny import tiny_config

from trine import TrineForCausalLM


COMMANDS = {
    "convert": ["SOURCE", "TARGET", "--to", "llama"],
    "export": ["SOURCE", "TARGET"],
    "lift": ["SOURCE", "TARGET", "--to", "sliding"],
    "generate": ["--model", "SOURCE", "--text", "a"],
    "next_tokens": ["--model", "SOURCE", "--text", "a"],
    "inspect_model": ["--model", "SOURCE", "--text", "a", "--output_dir", "TARGET"],
    "translate": ["--model", "SOURCE", "--text", "a"],
    "serve": ["--model", "SOURCE"],
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    TrineForCausalLM(tiny_config()).save_pretrained(folder)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**fields, "num_attention_heads": "four"}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_value_of_the_wrong_type_is_said_in_a_line(command, broken, tmp_path):
    places = {"SOURCE": str(broken), "TARGET": str(tmp_path / "target")}
    argv = [places.get(word, word) for word in COMMANDS[command]]
    with pytest.raises(SystemExit, match=r"(?s)trine.*num_attention_heads.*four"):
        import_module(f"trine.scripts.{command}").main(argv)


DEVICE_COMMANDS = {
    "search": ["text", "--index", "folder"],
    "index": ["--model", "model", "--files", "file", "--output_dir", "folder"],
    "words": ["model", "king"],
    "answer": ["text", "--model", "model", "--index", "folder"],
    "evaluate_retrieval": ["--files", "file"],
    "serve": ["--model", "model"],
    "embed": ["--model", "model", "--files", "file", "--output_dir", "folder"],
    "generate": ["--model", "model", "--text", "a"],
    "translate": ["--model", "model", "--text", "a"],
    "next_tokens": ["--model", "model", "--text", "a"],
    "evaluate_perplexity": ["--models", "model", "--files", "file"],
}


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
@pytest.mark.parametrize("command", DEVICE_COMMANDS)
def test_a_device_that_is_not_there_is_said_before_anything_is_read(command, device, capsys):
    with pytest.raises(SystemExit):
        import_module(f"trine.scripts.{command}").main([*DEVICE_COMMANDS[command], "--device", device])
    assert f"device='{device}' is not one of ['cpu'" in capsys.readouterr().err
