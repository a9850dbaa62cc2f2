"""A command that something stops before its first step leaves no output folder behind."""

from importlib import import_module

import pytest

from trine.training.run.resuming import check_writable


TRAINING = ["--use_cpu", "--report_to", "none"]
# Words of each command that writes into a folder, and what its message says of them.
COMMANDS = {
    "pretrain": (["--files", "nowhere.txt", *TRAINING], "nowhere.txt"),
    "demo": (["--files", "nowhere.txt", *TRAINING], "nowhere.txt"),
    "train_tokenizer": (["--files", "nowhere.txt"], "nowhere.txt"),
    "train_embeddings": (["--files", "nowhere.jsonl", "--model", "nowhere", *TRAINING], "nowhere"),
    "train_reranker": (["--files", "nowhere.jsonl", "--model", "nowhere", *TRAINING], "nowhere"),
    "train_summarizer": (["--files", "nowhere.jsonl", *TRAINING], "nowhere.jsonl"),
    "train_translation": (["--files", "nowhere.jsonl", *TRAINING], "nowhere.jsonl"),
    "finetune_classifier": (["--files", "nowhere.jsonl", "--model", "nowhere", *TRAINING], "nowhere"),
    "finetune_lora": (["--files", "nowhere.jsonl", "--model", "nowhere", *TRAINING], "nowhere"),
    "finetune_tagger": (["--files", "nowhere.jsonl", "--model", "nowhere", *TRAINING], "nowhere"),
    "index": (["--files", "nowhere.jsonl", "--model", "nowhere"], "nowhere"),
    "inspect_model": (["--model", "nowhere", "--text", "a"], "connect"),
    "studies.parts": (["--data_dir", "nowhere"], "nowhere"),
    "studies.shapes": (["--data_dir", "nowhere"], "nowhere"),
    "studies.simplicial": (["--data_dir", "nowhere", "--experiments", "real-text"], "nowhere"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_left_of_a_start_that_failed(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, named = COMMANDS[command]
    with pytest.raises(SystemExit, match=f"trine.*{named}"):
        import_module(f"trine.scripts.{command}").main([*words, "--output_dir", "outputs/new"])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_found_before_it_is_made(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "link").symlink_to("nowhere")
    for name, reason in (("n" * 300, "File name too long"), ("link", "No such file or directory")):
        with pytest.raises(OSError, match=f"output_dir='.*' cannot be written: {reason}"):
            check_writable(tmp_path / name / "inside")
