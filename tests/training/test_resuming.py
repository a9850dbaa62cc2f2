"""Checkpoints: the last whole one is found, damaged ones are named, and a full disk costs none."""

import shutil

import pytest
import torch
from support.tiny import tiny_config
from transformers import Trainer, TrainingArguments

from trine import TrineForCausalLM
from trine.training.run.resuming import check_writable, damage, find_checkpoint, list_checkpoints, train


def make_trainer(folder, **options) -> Trainer:
    torch.manual_seed(0)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=12,
        save_steps=2,
        save_strategy="steps",
        per_device_train_batch_size=2,
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    ids = torch.randint(3, 60, (8, 10))
    data = [{"input_ids": row, "labels": row} for row in ids]
    return Trainer(TrineForCausalLM(tiny_config(use_cache=False)), arguments, train_dataset=data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    make_trainer(folder).train()
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def find(folder, wanted: str | None = "last"):
    return find_checkpoint(TrainingArguments(output_dir=str(folder), resume_from_checkpoint=wanted))


def test_the_last_one_is_the_one_of_most_steps(folder):
    assert [path.name for path in list_checkpoints(folder)] == [f"checkpoint-{n}" for n in range(2, 13, 2)]
    assert find(folder) == str(folder / "checkpoint-12")
    assert find(folder, str(folder / "checkpoint-4")) == str(folder / "checkpoint-4")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json", "trainer_state.json"]
)
@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_found(folder, name, left):
    file = folder / "checkpoint-12" / name
    file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    assert name in damage(folder / "checkpoint-12")
    with pytest.warns(UserWarning, match=f"checkpoint-12' is left out: '{name}' is damaged"):
        assert find(folder) == str(folder / "checkpoint-10")
    with pytest.raises(
        ValueError, match=rf"cannot be used: '{name}' is damaged.*Whole .*checkpoint-2'.*checkpoint-10'"
    ):
        find(folder, str(folder / "checkpoint-12"))


def test_weights_alone_are_no_checkpoint_to_go_on_from(folder):
    (folder / "checkpoint-12" / "rng_state.pth").unlink()
    with pytest.warns(UserWarning, match="checkpoint-12' is left out: it holds the weights alone"):
        assert find(folder) == str(folder / "checkpoint-10")
    with pytest.raises(ValueError, match="cannot be used: it holds the weights alone, as --save_only_model leaves"):
        find(folder, str(folder / "checkpoint-12"))


def keep_one(folder):
    for number in range(2, 11, 2):
        shutil.rmtree(folder / f"checkpoint-{number}")
    return folder / "checkpoint-12"


@pytest.mark.parametrize("wanted", [None, "last"])
@pytest.mark.parametrize("left", [None, b"", b'{"global_step": 1'], ids=["no state", "empty state", "half a state"])
def test_a_run_killed_in_its_first_checkpoint_begins_anew(folder, wanted, left, capsys):
    """By either spelling of the command; a model that stands there stays."""
    checkpoint = keep_one(folder)
    (checkpoint / "trainer_state.json").unlink()
    if left is not None:
        (checkpoint / "trainer_state.json").write_bytes(left)
    with pytest.warns(UserWarning, match="checkpoint-12' is left out: 'trainer_state.json' is"):
        assert find(folder, wanted) is None
    assert ("holds no checkpoint yet: training starts from the beginning" in capsys.readouterr().out) is bool(wanted)
    assert (checkpoint / "model.safetensors").is_file()


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path, capsys):
    assert find(tmp_path, None) is None and not capsys.readouterr().out
    assert find(tmp_path, "last") is None and "holds no checkpoint yet" in capsys.readouterr().out


def test_no_whole_checkpoint_of_a_run_is_an_error(folder):
    (keep_one(folder) / "optimizer.pt").write_bytes(b"cut off")
    with pytest.warns(UserWarning, match="is left out"), pytest.raises(ValueError, match="holds no whole checkpoint"):
        find(folder)
    with pytest.raises(ValueError, match="holds checkpoints of an earlier run"):
        find(folder, None)


def test_a_checkpoint_that_was_half_deleted_is_found(folder):
    (folder / "checkpoint-12" / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="checkpoint-12' is left out: its weights are missing"):
        assert find(folder) == str(folder / "checkpoint-10")


class FullDisk:
    """Lets the optimizer's file of one step be written in part only, as a full disk does."""

    def __init__(self, monkeypatch, step: int):
        save = torch.save

        def save_in_part(content, file, *args, **kwargs):
            save(content, file, *args, **kwargs)
            if f"checkpoint-{step}/optimizer" in str(file):
                with open(file, "r+b") as opened:
                    opened.truncate(100)
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", save_in_part)


def test_a_full_disk_costs_no_checkpoint(tmp_path, monkeypatch, trained):
    with monkeypatch.context() as context:
        FullDisk(context, 6)
        with pytest.raises(
            OSError, match=r"checkpoint-6' could not be written: .*No space left.*Go on from .*-4' with"
        ):
            train(make_trainer(tmp_path), None)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-4"]
    checkpoint = find(tmp_path)
    train(make_trainer(tmp_path), checkpoint)
    expected = (trained / "checkpoint-12" / "model.safetensors").read_bytes()
    assert (tmp_path / "checkpoint-12" / "model.safetensors").read_bytes() == expected


def test_other_errors_of_training_stay_what_they_are(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.compute_loss = lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("of the model"))
    with pytest.raises(RuntimeError, match="^of the model$"):
        train(trainer, None)


def test_errors(folder, tmp_path):
    with pytest.raises(ValueError, match="holds checkpoints of an earlier run: go on with"):
        find(folder, None)
    with pytest.raises(FileNotFoundError, match="absent' is neither a folder nor 'last'"):
        find(folder, "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="output_dir='.*file/inside' cannot be written: Not a directory"):
        check_writable(tmp_path / "file" / "inside")
