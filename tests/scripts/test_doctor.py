"""`trine doctor` tells what is there, and what is amiss."""

import json
from importlib.metadata import version

import torch

from trine.scripts import cli, doctor


def facts_of(capsys):
    status = cli.main(["doctor", "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_versions_extras_threads(capsys):
    status, facts = facts_of(capsys)
    assert status == 0 and facts["amiss"] == []
    assert facts["versions"]["torch"] == torch.__version__ == version("torch")
    assert {"scripts", "export", "serving"} <= facts["extras"].keys() and "dev" not in facts["extras"]
    missing = {name: packages for name, packages in facts["extras"].items() if packages and name != "quantization"}
    assert not missing, "the environment of the tests has all but torchao, with which every import takes longer"
    assert facts["threads"]["torch"] == torch.get_num_threads()
    assert facts["device"]["cpu"]


def test_what_is_missing_or_too_old_is_named(capsys, monkeypatch):
    versions = {"torch": "2.0.1", "transformers": "5.23.0", "peft": None, "jieba": None}
    monkeypatch.setattr(doctor, "_installed", lambda name: versions.get(name, "99.0"))
    status, facts = facts_of(capsys)
    assert status == 1
    assert facts["amiss"] == ["torch 2.0.1: needs torch>=2.11", "peft is missing: needs peft>=0.19"]
    assert facts["extras"]["chinese"] == ["jieba"] and facts["extras"]["export"] == []
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "  chinese: lacks jieba" in lines and "  export: complete" in lines
    assert "  torch 2.0.1: needs torch>=2.11" in lines
    assert lines[-1] == "An extra is completed by: pip install 'trine[NAME]'"
