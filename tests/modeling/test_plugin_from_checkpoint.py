"""A plugin out of a checkpoint: loaded where somebody asks for it, and nowhere else."""

import hashlib
import json
import re
import shutil
import sys

import pytest
import torch
from support.plugins import tables_restored, write_sigmoid
from support.tiny import random_ids
from support.translators import tiny_translator
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, dynamic_module_utils
from transformers.utils import hub

from trine import TrineConfig, TrineForCausalLM, load_plugin
from trine.configuration import plugin_checkpoints
from trine.scripts.arguments.parsing import load_trusted, parse_arguments
from trine.scripts.generate import GenerateArguments


SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
COMMIT = "a" * 40


@pytest.fixture(autouse=True)
def forgotten():
    with tables_restored():
        yield


@pytest.fixture
def saved(tmp_path):
    """A checkpoint with a plugin of two files, which nothing has loaded, and logits of its model."""
    with tables_restored():
        load_plugin(write_sigmoid(tmp_path, "brought_sigmoid", "ours"))
        model = TrineForCausalLM(TrineConfig(**SIZES, attention_types="ours, full", ours_bias=-0.5)).eval()
        model.save_pretrained(tmp_path / "saved")
        return tmp_path / "saved", model(random_ids(2, 9)).logits.detach()


def equals_saved(source, logits) -> None:
    model = AutoModelForCausalLM.from_pretrained(source)
    assert isinstance(model, TrineForCausalLM) and model.config.ours_bias == -0.5
    torch.testing.assert_close(model(random_ids(2, 9)).logits, logits, rtol=0, atol=1e-6)


def test_a_folder_is_asked_for_its_plugins(saved):
    folder, logits = saved
    for options in ({}, {"trust_remote_code": True}):
        with pytest.raises(ValueError, match="FILE is the checkpoint"):
            AutoModelForCausalLM.from_pretrained(folder, **options)
    assert "brought_sigmoid" not in sys.modules
    module = load_plugin(folder)
    assert module.__file__ == str(folder / "brought_sigmoid.py")
    equals_saved(folder, logits)
    assert load_plugin(folder) is module


def test_what_is_registered_already_stays(saved):
    module = load_plugin(saved[0].parent / "brought_sigmoid.py")
    assert load_plugin(saved[0]) is module
    equals_saved(*saved)


def test_a_name_of_the_hub_is_asked_likewise(saved, tmp_path, monkeypatch):
    """Its files lie in a cache as links to others without names: they are copied, as transformers does."""
    folder, logits = saved
    cache = tmp_path / "cache" / "models--me--ours"
    for part in ("refs", f"snapshots/{COMMIT}", "blobs"):
        (cache / part).mkdir(parents=True)
    (cache / "refs" / "main").write_text(COMMIT)
    for file in folder.iterdir():
        blob = cache / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (cache / "snapshots" / COMMIT / file.name).symlink_to(blob)
    modules = tmp_path / "modules"
    for owner, name, value in (
        (hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache")),
        (plugin_checkpoints, "HF_MODULES_CACHE", str(modules)),
        (dynamic_module_utils, "HF_MODULES_CACHE", str(modules)),
    ):
        monkeypatch.setattr(owner, name, value)
    module = load_plugin("me/ours")
    assert str(module.__file__).startswith(str(modules))
    equals_saved(folder, logits)


def test_both_stacks_are_asked(tmp_path):
    with tables_restored():
        load_plugin(write_sigmoid(tmp_path, "both_sigmoid", "ours"))
        model = tiny_translator(attention_types="full, ours")
        model.save_pretrained(tmp_path / "saved")
    load_plugin(tmp_path / "saved")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved", dtype="auto")
    assert again.config.encoder.attention_types == ["full", "ours"]


@pytest.mark.parametrize("trusts", [True, False])
def test_commands_ask_where_code_may_run(trusts, saved):
    words = ["--model", str(saved[0]), "--text", "x", *["--trust_remote_code"] * trusts]
    parse_arguments([GenerateArguments], words, command="generate", description=None)
    assert ("brought_sigmoid" in sys.modules) is trusts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "brought_sigmoid.py").unlink(), "brought_sigmoid.py is not a file."),
        (
            lambda folder: (folder / "brought_sigmoid.py").write_text("X = 1\n"),
            "saved names ['ours'], which no file beside its weights registers.",
        ),
        (
            lambda folder: (folder / "config.json").write_text(
                json.dumps({**json.loads((folder / "config.json").read_text()), "auto_map": {}})
            ),
            "saved names ['ours'], which no file beside its weights registers.",
        ),
        (
            lambda folder: (folder / "config.json").write_text(json.dumps({"model_type": "llama"})),
            "saved has no mechanism of somebody's own: it needs no plugin.",
        ),
    ],
    ids=["no file", "another file", "no code", "another model"],
)
def test_a_checkpoint_without_them_says_so(change, message, saved):
    change(saved[0])
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        load_plugin(saved[0])


def test_a_command_leaves_it_to_others_to_say_that_there_is_no_checkpoint(saved, tmp_path):
    load_trusted(str(tmp_path / "absent"))
    (saved[0] / "brought_sigmoid.py").write_text("x = = 1\n")
    with pytest.raises(ValueError, match=r"brought_sigmoid.py:1: invalid syntax"):
        load_trusted([str(saved[0])])
    (saved[0] / "brought_sigmoid.py").unlink()
    with pytest.raises(ValueError, match=r"brought_sigmoid.py is not a file"):
        load_trusted([str(saved[0])])
