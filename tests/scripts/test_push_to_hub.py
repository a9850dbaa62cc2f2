"""What would go to the Hub, and that exactly that arrives at a stand-in for it."""

import re

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import constants
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trine import TrineConfig, TrineForSequenceClassification, train_wordpiece
from trine.scripts import push_to_hub
from trine.scripts.push_to_hub import make_plan, show_size


@pytest.fixture
def hub(monkeypatch):
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # of the tests; what follows stays on this machine
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files by the LFS protocol
        monkeypatch.setenv("HF_TOKEN", "hf_for_the_stand_in")
        yield server


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model with tokenizer, code and card, and what training leaves beside them."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_wordpiece(["a short text", "a text that is longer"], vocab_size=300, show_progress=False)
    config = TrineConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    TrineForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("checkpoint-2/model.safetensors", "checkpoint-2/optimizer.pt", "runs/today/events.out.tfevents.1"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"left")
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", ".env"):
        (folder / name).write_bytes(b"left")
    (folder / "odd [name].json").write_text("{}")
    (folder / "empty.txt").write_text("")
    return folder


def run(folder, *argv):
    return push_to_hub.main(["--folder", str(folder), "--repository", "me/model", *argv])


def plain(tmp_path, **files):
    for name, content in {"config.json": "{}", "README.md": "card", **files}.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_dry_run_sends_nothing_and_shows_everything(hub, checkpoint, capsys):
    assert run(checkpoint) == 0
    assert hub.requests == []
    shown = capsys.readouterr().out
    assert f"{hub.url}/me/model (private)" in shown and "Nothing was sent. Add --yes to upload." in shown
    size = (checkpoint / "model.safetensors").stat().st_size
    assert re.search(rf"\n  model\.safetensors +{re.escape(show_size(size))}  LFS\n", shown)
    assert re.search(r"\n  tokenizer\.json +[\d.]+ kB\n", shown)
    going, left = shown.split("Left out")
    for name in ("checkpoint-2, 2 files", "optimizer.pt", "training_args.bin", "trainer_state.json", "runs", ".env"):
        assert f"\n  {name}" in left and f"\n  {name}" not in going
    plan = make_plan(checkpoint)
    assert f"{len(plan.files)} files, {show_size(sum(plan.files.values()))} in all" in going
    assert not plan.warnings and not plan.refused


def test_what_arrives_is_what_was_shown(hub, checkpoint, capsys, tmp_path):
    assert run(checkpoint, "--yes") == 0
    plan = make_plan(checkpoint)
    assert {name: (checkpoint / name).read_bytes() for name in plan.files} == hub.files
    assert {"odd [name].json", "empty.txt", "modeling_trine.py", "model.safetensors"} <= hub.files.keys()
    assert hub.repositories == {"me/model": True}
    assert hub.objects and hub.verified == hub.objects.keys()
    assert hub.tokens <= {"Bearer hf_for_the_stand_in", None}
    shown = capsys.readouterr().out
    assert f"Uploaded: {hub.url}/me/model" in shown and "hf_for_the_stand_in" not in shown
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    sent = AutoModelForSequenceClassification.from_pretrained(tmp_path).state_dict()
    kept = AutoModelForSequenceClassification.from_pretrained(checkpoint).state_dict()
    assert sent.keys() == kept.keys() and all(torch.equal(sent[name], kept[name]) for name in kept)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(AutoTokenizer.from_pretrained(checkpoint))


def test_visibility(hub, tmp_path, capsys):
    folder = plain(tmp_path)
    assert run(folder, "--yes", "--public") == 0
    assert hub.repositories == {"me/model": False}
    hub.files.clear()
    with pytest.raises(SystemExit, match="repository='me/model' is public: add --public. Nothing was sent."):
        run(folder, "--yes")
    assert not hub.files
    hub.repositories["me/model"] = True
    assert run(folder, "--yes", "--public") == 0
    assert hub.files and "private and stays so" in capsys.readouterr().out


def test_pickles_go_only_when_named(hub, tmp_path, capsys):
    folder = plain(tmp_path, **{"pytorch_model.bin": "pickle"})
    for words in ([], ["--include", "*"]):
        assert run(folder, *words) == 1
        assert "Refused: pytorch_model.bin is a pickle" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="refused, as said above; nothing was sent"):
            run(folder, "--yes", *words)
    assert hub.requests == []
    assert run(folder, "--yes", "--include", "pytorch_model.bin") == 0
    assert hub.files["pytorch_model.bin"] == b"pickle"
    assert make_plan(folder, leave_out=["*.bin"]).refused == []


def test_include_and_leave_out(tmp_path):
    folder = plain(tmp_path, **{"trainer_state.json": "{}", "loss.png": "picture"})
    assert make_plan(folder, ["*.png"], ["trainer_state.json"]).files.keys() == {
        *("README.md", "config.json", "trainer_state.json")
    }


@pytest.mark.parametrize(
    ("files", "warning"),
    [
        ({"README.md": None}, "There is no model card (README.md)."),
        ({"config.json": None}, "There is neither a config.json nor an adapter_config.json"),
        (
            {"config.json": '{"auto_map": {"AutoModel": "modeling_x.X", "AutoConfig": "other/place--conf.C"}}'},
            "auto_map in config.json names code that does not go: modeling_x.py.",
        ),
        (
            {"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["tok.Slow", null]}}'},
            "auto_map in tokenizer_config.json names code that does not go: tok.py.",
        ),
        (
            {"model.safetensors.index.json": '{"weight_map": {"a": "model-1.safetensors", "b": "config.json"}}'},
            "model.safetensors.index.json names weights that do not go: model-1.safetensors.",
        ),
        ({"model.safetensors": ""}, "Empty files: model.safetensors."),
    ],
)
def test_warnings(tmp_path, files, warning):
    folder = plain(tmp_path, **{name: text for name, text in files.items() if text is not None})
    for name in (name for name, text in files.items() if text is None):
        (folder / name).unlink()
    (folder / "tokenizer.json").write_text("{}")
    assert [text for text in make_plan(folder).warnings if text.startswith(warning)]
    assert len(make_plan(folder).warnings) == 1


def test_limits_of_the_hub(tmp_path, monkeypatch):
    folder = plain(tmp_path, large="12345678901")
    monkeypatch.setattr(push_to_hub, "LARGEST_FILE", 10)
    monkeypatch.setattr(push_to_hub, "MOST_FILES", 2)
    monkeypatch.setattr(push_to_hub, "MOST_ENTRIES", 2)
    plan = make_plan(folder)
    assert plan.refused == ["large has 11 B; the Hub takes at most 10 B a file."]
    assert plan.warnings == [
        "3 files; the Hub recommends fewer than 2.",
        "3 files in the folder '.'; the Hub allows 2.",
    ]


@pytest.mark.parametrize(
    ("size", "shown"), [(999, "999 B"), (1000, "1.0 kB"), (12_340_000, "12.3 MB"), (5 * 10**10, "50.0 GB")]
)
def test_sizes(size, shown):
    assert show_size(size) == shown


def test_no_login(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(push_to_hub, "get_token", lambda: None)
    with pytest.raises(SystemExit, match="there is no login: run `hf auth login`, or set HF_TOKEN"):
        run(plain(tmp_path), "--yes")
    assert hub.requests == []


def test_a_hub_that_refuses(hub, tmp_path):
    hub.broken = "/commit/"
    with pytest.raises(SystemExit, match=f"the Hub at {hub.url} refuses: .*403"):
        run(plain(tmp_path), "--yes")
    assert not hub.files


def test_no_network(hub, tmp_path, monkeypatch):
    with HubServer() as gone:
        pass
    monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    with pytest.raises(SystemExit, match=f"the Hub at {gone.url} cannot be reached"):
        run(plain(tmp_path), "--yes")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match="cannot be reached: .*offline mode is enabled"):
        run(plain(tmp_path), "--yes")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--folder", "absent"], "folder='absent' is no folder."),
        (["--folder", "{folder}"], "holds nothing to upload"),
        (["--repository", "a/b/c"], "Repo id must be in the form"),
    ],
)
def test_errors(tmp_path, argv, message):
    (tmp_path / "optimizer.pt").write_text("left")
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(tmp_path, *(text.format(folder=tmp_path) for text in argv))


def test_no_argument_takes_a_token(capsys):
    with pytest.raises(SystemExit):
        run("x", "--token", "hf_secret")
    assert "Unknown argument '--token'" in capsys.readouterr().err
