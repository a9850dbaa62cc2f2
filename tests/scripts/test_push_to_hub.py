"""What would go to the Hub, and that exactly that arrives at a stand-in for it."""

import gzip
import json
import pickle
import re

import pytest
import torch
from huggingface_hub import constants
from support.hub_server import HubServer
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
    (folder / "1_Odd [name]").mkdir()
    (folder / "1_Odd [name]" / "config.json").write_text("{}")
    (folder / "vocab.txt").write_text("")
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
    assert {"1_Odd [name]/config.json", "vocab.txt", "modeling_trine.py", "model.safetensors"} <= hub.files.keys()
    assert hub.repositories == {"me/model": True}
    assert hub.objects and hub.verified == hub.objects.keys()
    assert hub.tokens <= {"Bearer hf_for_the_stand_in", None}
    shown = capsys.readouterr().out
    assert f"Uploaded: {hub.url}/me/model" in shown and "hf_for_the_stand_in" not in shown
    for name, content in hub.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
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
    folder = plain(tmp_path, **{"merges.txt": "12345678901"})
    monkeypatch.setattr(push_to_hub, "LARGEST_FILE", 10)
    monkeypatch.setattr(push_to_hub, "MOST_FILES", 2)
    monkeypatch.setattr(push_to_hub, "MOST_ENTRIES", 2)
    plan = make_plan(folder)
    assert plan.refused == ["merges.txt has 11 B; the Hub takes at most 10 B a file."]
    assert plan.warnings == [
        "3 files; the Hub recommends fewer than 2.",
        "3 files in the folder '.'; the Hub allows 2.",
    ]


KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n"
TOKEN = "hf_" + "aB3" * 12
NOT_OF_A_MODEL = (
    *("id_rsa", "key.pem", "credentials.json", "secrets.json", "hf_token.txt", "prod.env", "notes.txt", "data.jsonl"),
    *("weights.gz", "train.py", "picture.png", "deeper/id_ed25519", "aws_credentials", "other.json"),
)


def test_what_is_not_of_a_model_stays(tmp_path):
    folder = plain(tmp_path)
    for name in NOT_OF_A_MODEL:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    plan = make_plan(folder)
    assert plan.files.keys() == {"README.md", "config.json"} and not plan.refused
    assert {path for path, _ in plan.left_out} == set(NOT_OF_A_MODEL)
    assert all(reason for _, reason in plan.left_out)
    everything = make_plan(folder, include=["*"])
    keys = {
        name for name in NOT_OF_A_MODEL if any(word in name for word in ("id_", "key", "cred", "secr", "tok", "env"))
    }
    assert {text.split()[0] for text in everything.refused if "holds keys" in text} == keys


@pytest.mark.parametrize(
    "name", ["weights.PT", "weights.th", "weights.dill", "model.safetensors", "spiece.model", "x.gz"]
)
def test_pickles_in_disguise_are_refused(tmp_path, name):
    folder = plain(tmp_path)
    if name == "x.gz":
        (folder / name).write_bytes(gzip.compress(pickle.dumps({"a": 1})))
    else:
        torch.save({"a": torch.zeros(1)}, folder / name)
    (reason,) = make_plan(folder, include=["*.gz"]).refused
    assert reason.startswith(name) and (
        "pickle" in reason or "no file of safetensors" in reason or "not what" in reason
    )


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("README.md", f"my token is {TOKEN}", "a token of the Hub"),
        ("config.json", json.dumps({"token": TOKEN}), "a token of the Hub"),
        ("vocab.txt", KEY, "a private key"),
        ("tokenizer_config.json", json.dumps({"key": "AKIA" + "ABCD" * 4}), "a key of AWS"),
        ("chat_template.jinja", "ghp_" + "aB3x" * 9, "a token of GitHub"),
    ],
)
def test_secrets_in_files_of_a_model_are_refused(tmp_path, capsys, name, content, what):
    folder = plain(tmp_path, **{name: content})
    assert run(folder) == 1
    shown = capsys.readouterr().out
    assert f"Refused: {name} holds {what}" in shown and TOKEN not in shown


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_damaged_json_is_refused(tmp_path, name):
    assert make_plan(plain(tmp_path, **{name: "{"})).refused == [f"{name} is no JSON."]


def test_links_that_leave_the_folder_are_refused(tmp_path):
    (tmp_path / "home").write_text("secret")
    (tmp_path / "model").mkdir()
    folder = plain(tmp_path / "model")
    (folder / "merges.txt").symlink_to(tmp_path / "home")
    (folder / "vocab.txt").symlink_to(folder / "README.md")
    assert make_plan(folder).refused == ["merges.txt is a link that leads out of the folder."]


def test_code_and_images_go_where_something_names_them(tmp_path):
    files = {"config.json": '{"auto_map": {"AutoModel": "model_x.X"}}', "README.md": "![loss](loss.svg)"}
    files |= {
        "model_x.py": "from .part import y\n",
        "part.py": "",
        "train.py": "",
        "loss.svg": "<svg/>",
        "a.svg": "<svg/>",
    }
    plan = make_plan(plain(tmp_path, **files))
    assert plan.files.keys() == files.keys() - {"train.py", "a.svg"} and not plan.refused


def test_a_folder_whose_saving_was_killed_is_refused(tmp_path):
    folder = plain(tmp_path, **{"config.json": '{"transformers_weights": ".saving-1/model.safetensors"}'})
    assert make_plan(folder).refused[0].startswith("config.json names weights in .saving-1: saving was killed.")


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
