"""Saving over an older model: whenever it is killed, the folder holds the old one or the new one, whole."""

import json
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from support import forks
from support.tiny import tiny_config, tiny_model
from transformers import AutoModelForCausalLM

from trine import TrineForCausalLM, TrineModel
from trine.configuration import atomic_saving
from trine.configuration.atomic_saving import HIDDEN, locked, saving


LENGTHS = {1: 50, 2: 60, 3: 70}  # a field of the config for each value of the weights
SHARDS = {"one file": "5GB", "shards": "20kB", "more shards": "10kB"}


def model_of(value: int) -> TrineForCausalLM:
    """A model whose every weight is `value`, and whose config says so, too."""
    model = TrineForCausalLM(tiny_config(max_position_embeddings=LENGTHS[value], export_code=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    model.generation_config.max_length = 100 + value
    return model


def value_in(folder: Path) -> int:
    """Which model a folder holds; an error if it is a mixture."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    values = {weight.item() for parameter in model.parameters() for weight in (parameter.min(), parameter.max())}
    assert len(values) == 1, values
    value = int(values.pop())
    assert model.config.max_position_embeddings == LENGTHS[value]
    return value


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Killed(BaseException):
    pass


@pytest.fixture
def kill_at(monkeypatch):
    """Ends a saving before its nth change of a folder, like SIGKILL: nothing is tidied up."""
    count = {"left": -1}

    def counted(change):
        def counting(*args, **kwargs):
            if count["left"] == 0:
                raise Killed
            count["left"] -= 1
            return change(*args, **kwargs)

        return counting

    def remove_unless_killed(folder, remove=shutil.rmtree, **options):
        if count["left"] != 0:
            remove(folder, **options)

    for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (Path, "write_text"), (os, "link")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    monkeypatch.setattr(shutil, "rmtree", remove_unless_killed)
    return count


@pytest.mark.parametrize(
    ("before", "after"), [("one file", "one file"), ("shards", "one file"), ("shards", "more shards")]
)
def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path, kill_at, before, after):
    model_of(1).save_pretrained(tmp_path, max_shard_size=SHARDS[before])
    seen, step, killed = [], 0, True
    while killed:
        folder = tmp_path / str(step)
        folder.mkdir()
        for file in [path for path in tmp_path.iterdir() if path.is_file()]:
            shutil.copyfile(file, folder / file.name)
        kill_at["left"] = step
        try:
            model_of(2).save_pretrained(folder, max_shard_size=SHARDS[after])
            killed = False
        except Killed:
            pass
        kill_at["left"] = -1
        seen.append(value_in(folder))
        if step % 4 == 0:  # the next saving finishes or removes what is left
            AutoModelForCausalLM.from_pretrained(folder).config.save_pretrained(folder)
            assert value_in(folder) == seen[-1]
            assert not [name for name in names_in(folder) if name.startswith(HIDDEN)]
        step += 1
    assert seen == sorted(seen) and set(seen) == {1, 2}
    assert step > 10 and "transformers_weights" not in (tmp_path / str(step - 1) / "config.json").read_text()


@pytest.mark.parametrize("before", SHARDS)
@pytest.mark.parametrize("after", SHARDS)
def test_only_the_new_weights_remain(tmp_path, before, after):
    for value, way in ((1, before), (2, after)):
        model_of(value).save_pretrained(tmp_path / "twice", max_shard_size=SHARDS[way])
    (tmp_path / "once").mkdir()
    model_of(2).save_pretrained(tmp_path / "once", max_shard_size=SHARDS[after])
    assert names_in(tmp_path / "twice") == names_in(tmp_path / "once")
    for name in names_in(tmp_path / "once") - {"README.md"}:
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "once" / name).read_bytes(), name


def test_other_files_stay(tmp_path):
    model_of(1).save_pretrained(tmp_path)
    model_of(2).save_pretrained(tmp_path, variant="half")
    others = {"tokenizer.json": "{}", "README.md": "my card", "model.py": "x", "other-00001-of-00002.safetensors": ""}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "checkpoint-3").mkdir()
    model_of(3).save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in others} == others
    assert {"checkpoint-3", "model.half.safetensors"} <= names_in(tmp_path)
    assert value_in(tmp_path) == 3


@pytest.mark.parametrize("way", ["one file", "shards"])
def test_a_full_disk_leaves_the_old_one(tmp_path, way):
    """The limit of a file's size stands for the disk: weights fit before, and not after."""
    model_of(1).save_pretrained(tmp_path, max_shard_size=SHARDS[way])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))
    try:
        with pytest.raises(OSError, match="the model was not saved: .*What the folder held is unchanged"):
            model_of(2).save_pretrained(tmp_path, max_shard_size=SHARDS[way])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert value_in(tmp_path) == 1


def test_a_folder_that_is_read_only_keeps_its_model(tmp_path):
    model_of(1).save_pretrained(tmp_path)
    os.chmod(tmp_path, 0o555)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("whoever runs this may write everywhere")
        with pytest.raises(OSError, match=f"{tmp_path}: the model was not saved: .*Permission denied"):
            model_of(2).save_pretrained(tmp_path)
    finally:
        os.chmod(tmp_path, 0o755)
    assert value_in(tmp_path) == 1


def test_a_file_is_no_folder_to_save_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file: the model was not saved: .*File exists"):
        model_of(1).save_pretrained(tmp_path / "file")


def test_what_another_process_is_saving_stays(tmp_path):
    """Its hidden folder is removed when it is dead, and not before."""
    (tmp_path / f"{HIDDEN}other").mkdir()
    with locked(tmp_path) as other:
        assert other.take(shared=True)
        with saving(tmp_path) as made:
            (made / "file").write_text("new")
            assert f"{HIDDEN}other" in names_in(tmp_path)
            other.close()
            other.file = None
    with saving(tmp_path):
        pass
    assert names_in(tmp_path) == {"file"}


def test_without_locks_and_second_names_it_is_the_same(tmp_path, monkeypatch):
    """As on other systems: the weights are copied instead."""
    monkeypatch.setattr(atomic_saving, "fcntl", None)
    monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError("no links here")))
    for value in (1, 2):
        model_of(value).save_pretrained(tmp_path, max_shard_size="20kB")
        assert value_in(tmp_path) == value
    assert not [name for name in names_in(tmp_path) if name.startswith(HIDDEN)]


def test_a_process_that_is_not_the_main_one_writes_nothing(tmp_path):
    model_of(1).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model_of(2).save_pretrained(tmp_path, is_main_process=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_adapters_in_a_model_are_saved_as_such(tmp_path):
    for value in (1, 2):
        model = tiny_model(TrineModel, dtype=torch.float32, is_causal=False)
        model.add_adapter(LoraConfig(r=value, target_modules=["q_proj"]))
        model.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == value
    assert "adapter_model.safetensors" in names_in(tmp_path) and "model.safetensors" not in names_in(tmp_path)


def test_a_variant_is_not_pushed(tmp_path):
    with pytest.raises(ValueError, match="variant='half' cannot be pushed. Save it, and upload the folder."):
        model_of(1).save_pretrained(tmp_path, push_to_hub=True, variant="half")
    assert not names_in(tmp_path)


SAVER = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/modeling"]
from test_saving import model_of
models = {value: model_of(value) for value in (2, 3)}
Path(sys.argv[3]).touch()
while True:
    for value in models:
        models[value].save_pretrained(sys.argv[2], max_shard_size="8kB")
"""
KILLS = int(os.environ.get("TRINE_KILLS", "3"))


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path, tmp_path_factory):
    """SIGKILL of a process that saves one model over another, again and again. TRINE_KILLS says how often."""
    model_of(1).save_pretrained(tmp_path, max_shard_size="10kB")
    moments, tests = random.Random(0), str(Path(__file__).parents[1])
    for kill in range(KILLS):
        ready = tmp_path_factory.mktemp("ready") / f"{kill}"
        program = ["-c", SAVER, tests, str(tmp_path), str(ready)]
        process = forks.start(
            program, ready.parent, os.environ, (ready.with_suffix(".out"), ready.with_suffix(".err"))
        )
        while process.is_alive() and not ready.exists():
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert value_in(tmp_path) in (1, 2, 3)
