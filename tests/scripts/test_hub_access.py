"""Commands ask an unreachable Hub once, say so, and go on with what is on this computer."""

import os
import re
import socket
import subprocess
import sys

import pytest
from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils._http import default_client_factory

from trine.scripts.jobs.hub_access import ask_once, make_client
from trine.scripts.train_translation import main as train_translation


@pytest.fixture(scope="module")
def nowhere():
    """An address of this computer at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen, so that connections are refused
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_the_first_failure_turns_the_offline_mode_on(nowhere, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    client = make_client()
    for _ in range(2):
        with pytest.raises(OfflineModeIsEnabled):
            client.get(f"{nowhere}/api/models")
        assert constants.is_offline_mode()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("http://127.0.0.1 cannot be reached") and "HF_HUB_OFFLINE=1" in line


def test_commands_do_not_retry(nowhere, tmp_path):
    """All read their arguments with one function, which turns retries off."""
    argv = ["generate", "--model", "nobody/nothing", "--text", "x"]
    environment = os.environ | {"HF_ENDPOINT": nowhere, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    program = [sys.executable, "-m", "trine.scripts.cli", *argv]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("cannot be reached") == 1 and "HF_HUB_OFFLINE=1" in done.stderr
    assert "where there is no folder 'nobody/nothing'" in done.stderr
    assert "Retrying" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("source", ["./nothing", "/no/such/folder", "a/b/c", "models/"])
@pytest.mark.parametrize("option", ["model", "encoder", "tokenizer", "target_tokenizer"])
def test_a_folder_that_is_not_there(option, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = [f"--{option}", source, "--files", "pairs.jsonl", "--source_field", "a", "--target_field", "b"]
    message = f"trine train-translation: {option}={source!r}: there is no such folder"
    with pytest.raises(SystemExit, match=re.escape(message)):
        train_translation([*argv, "--output_dir", "out"])


def test_offline_a_name_that_is_nowhere_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub" / "models--somebody--cached").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    given = {"model": "somebody/cached", "encoder": "here", "tokenizer": "my-modle"}
    try:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        ask_once(given)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        ask_once(given)
    finally:
        set_client_factory(default_client_factory)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("'my-modle': there is no such folder, nor such a checkpoint in the cache")
