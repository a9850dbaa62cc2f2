"""The benchmark runs, compares models of one size, and writes what it measured."""

import re

import pytest
import torch

from trine.scripts.benchmarks import models
from trine.scripts.benchmarks.model_peers import PEERS, make_model
from trine.scripts.benchmarks.models import TASKS, BenchmarkArguments, main, some_labels


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("peer", PEERS)
def test_both_models_are_of_one_size(peer, quick):
    with torch.device("meta"):
        ours, theirs = (make_model(peer, who, quick, "meta", "float32") for who in ("Trine", peer))
    assert ours.num_parameters() == theirs.num_parameters()
    assert type(ours).__module__.startswith("trine.") and type(theirs).__module__.startswith("transformers.")


def test_a_quick_run_writes_its_report(tmp_path, monkeypatch):
    """One of the four peaks of memory is measured, in a process of its own, as all are."""
    processes = []

    def in_fresh_process(function, peer, who, *rest):
        processes.append((peer, who, *rest[:1]))
        return measured(function, peer, who, *rest) if (peer, who) == ("BERT", "Trine") else 1.0

    measured = models.in_fresh_process
    monkeypatch.setattr(models, "in_fresh_process", in_fresh_process)
    file = tmp_path / "docs" / "report.md"
    words = ["--quick", "--rounds", "2", "--length", "32", "--new_tokens", "4", "--memory_batches", "2"]
    peers = ["Mixtral", "BERT"]
    main([*words, "--output", str(file), "--peers", *peers])
    text = file.read_text()
    rows = re.findall(r"^\| ([\w ]+) \| ([\w ]+?)[,|]", text, flags=re.MULTILINE)
    expected = [(peer, task) for peer in peers for task in (*PEERS[peer].tasks, "training peak memory")]
    assert [row for row in rows if row[0] in PEERS] == expected
    assert ("Trine with padding", "training on ragged texts") in rows
    assert "--rounds 2" in text
    assert processes == [(peer, who, 2) for peer in peers for who in ("Trine", peer)]
    ours = re.search(r"\| BERT \| training peak memory, 2 x 32 tokens \| ([\d,]+) MiB \| 1 MiB \|", text)
    assert ours and int(ours[1].replace(",", "")) > 1


@pytest.mark.parametrize("peer", PEERS)
def test_every_task_of_every_peer_runs(peer):
    arguments = BenchmarkArguments(quick=True, length=16, train_batch=1, new_tokens=3)
    for who in ("Trine", peer):
        model = make_model(peer, who, True, "cpu", "float32")
        for task in PEERS[peer].tasks:
            assert TASKS[task][1](model, peer, arguments)() in (3, 16, 32)


@pytest.mark.parametrize("share", [0.15, 0.5, 1.0])
def test_the_share_of_labels(share):
    tokens = torch.randint(5, 50, (3, 40))
    labels = some_labels(tokens, share)
    assert int((labels != -100).sum()) == round(share * 120)
    assert ((labels == tokens) | (labels == -100)).all()


def test_an_unknown_peer_is_named():
    with pytest.raises(ValueError, match=r"peers=\['GPT'\] are not among \['Llama', "):
        BenchmarkArguments(peers=["GPT"])


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="rounds=0 must be at least 1"):
        BenchmarkArguments(rounds=0)
