"""A plugin, and the copies of it in checkpoints: which of them is run, and that none is lost."""

import shutil

import pytest
from support.plugins import tables_restored, write_sigmoid
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from trine import TrineConfig, TrineForCausalLM, load_plugin


SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}


@pytest.fixture(autouse=True)
def forgotten():
    with tables_restored():
        logging.enable_propagation()
        yield


def make() -> TrineForCausalLM:
    return TrineForCausalLM(TrineConfig(**SIZES, attention_types="ours, full"))


@pytest.mark.parametrize("load", [TrineForCausalLM.from_pretrained, AutoModelForCausalLM.from_pretrained])
@pytest.mark.parametrize("changed", ["copied_sigmoid.py", "copied_sigmoid_helper.py", "another name"])
def test_a_checkpoint_with_other_code_is_told(changed, load, tmp_path, caplog):
    file = write_sigmoid(tmp_path, "copied_sigmoid", "ours")
    load_plugin(file)
    saved = tmp_path / "saved"
    make().save_pretrained(saved)
    load(saved, trust_remote_code=True)
    assert not caplog.text
    if changed == "another name":
        changed = "renamed.py"
        (saved / file.name).rename(saved / changed)
    else:
        (saved / changed).write_text(
            (saved / changed).read_text().replace("sigmoid(", "tanh(").replace("-1.0", "-2.0")
        )
    load(saved, trust_remote_code=True)
    ours = file.with_name(changed) if changed != "renamed.py" else file
    assert f"the code of {ours} is run" in caplog.text and f"not that of {saved / changed}" in caplog.text
    assert f"trine.load_plugin('{saved / changed}') in a fresh process" in caplog.text


def test_a_plugin_that_was_removed_keeps_no_checkpoint_from_loading(tmp_path):
    file = write_sigmoid(tmp_path, "gone_sigmoid", "ours")
    load_plugin(file)
    make().save_pretrained(tmp_path / "saved")
    file.unlink()
    file.with_name("gone_sigmoid_helper.py").unlink()
    TrineForCausalLM.from_pretrained(tmp_path / "saved")


def test_what_was_loaded_is_saved_and_not_what_was_written_since(tmp_path, caplog):
    file = write_sigmoid(tmp_path, "edited_sigmoid", "ours")
    load_plugin(file)
    model = make()
    model.save_pretrained(tmp_path / "before")
    file.write_text("raise RuntimeError")
    model.save_pretrained(tmp_path / "after")
    for path in (tmp_path / "before").glob("*.py"):
        assert path.read_text() == (tmp_path / "after" / path.name).read_text()


@pytest.mark.parametrize("name", ["own_sigmoid.py", "own_sigmoid_helper.py"])
def test_a_plugin_is_not_overwritten_by_its_copy(name, tmp_path):
    file = write_sigmoid(tmp_path, "own_sigmoid", "ours")
    helper = tmp_path / "own_sigmoid_helper.py"
    helper.write_text("from trine import Visibility\n" + helper.read_text())
    load_plugin(file)
    other = tmp_path / "other"
    make().save_pretrained(other)
    if name == helper.name:
        file.write_text((other / file.name).read_text())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for saved in (make(), make().config):
        with pytest.raises(ValueError, match=r"own_sigmoid\w*.py would be overwritten by the copy for the checkpoint"):
            saved.save_pretrained(tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_a_checkpoint_is_saved_again_into_its_folder(tmp_path):
    file = write_sigmoid(tmp_path, "again_sigmoid", "ours")
    with tables_restored():
        load_plugin(file)
        make().save_pretrained(tmp_path / "saved")
    load_plugin(tmp_path / "saved" / file.name)
    TrineForCausalLM.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "saved")
