"""The benchmark runs, compares models of one size, and writes what it measured."""

import re

import pytest
import torch

from trine.scripts.benchmarks import models
from trine.scripts.benchmarks.model_peers import PEERS, make_model
from trine.scripts.benchmarks.models import DESCRIPTION_LENGTHS, TASKS, BenchmarkArguments, main, some_labels


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
    rows = re.findall(r"^\| (?!what)([\w ]+?)(?:,[^|]*)? \| ([\w ]+) \|", text, flags=re.MULTILINE)
    generated = [("training", "Mixtral"), ("prefill", "Mixtral"), ("decoding", "Mixtral")]
    ragged = ("training on ragged texts", "Trine with padding")
    memory = [("training peak memory", peer) for peer in peers]
    assert rows == [*generated, memory[0], ("training", "BERT"), ragged, memory[1]]
    assert re.search(r"\| decoding, 4 tokens \| Mixtral .* \| at least 1\.1 \| (yes|\*\*no\*\*) \|", text)
    assert re.search(r"\| prefill, 32 tokens \| Mixtral .*\) \|  \|  \|", text)
    assert "--rounds 2" in text
    assert processes == [(peer, who, 2) for peer in peers for who in ("Trine", peer)]
    ours = re.search(r"\| training peak memory, 2 x 32 tokens \| BERT \| ([\d,.]+) MiB \| 1.00 MiB \|", text)
    assert ours and float(ours[1].replace(",", "")) > 1


@pytest.mark.parametrize("peer", PEERS)
def test_every_task_of_every_peer_runs(peer):
    arguments = BenchmarkArguments(quick=True, length=16, train_batch=1, new_tokens=3)
    models = [make_model(peer, who, True, "cpu", "float32") for who in ("Trine", peer)]
    for task in PEERS[peer].tasks:
        ours, theirs = TASKS[task].steps(*models, peer, arguments)
        assert ours() == theirs() in (3, 16, 32, sum(max(2, length // 16) * 2 for length in DESCRIPTION_LENGTHS))


def test_one_task_alone_can_be_chosen(tmp_path):
    file = tmp_path / "report.md"
    words = ["--quick", "--rounds", "1", "--length", "8", "--peers", "T5", "--tasks", "training"]
    main([*words, "--output", str(file)])
    rows = re.findall(r"^\| .*tokens/s.*$", file.read_text(), flags=re.MULTILINE)
    assert len(rows) == 1 and rows[0].startswith("| training, 2 x 8 tokens | T5 |")


@pytest.mark.parametrize("share", [0.15, 0.5, 1.0])
def test_the_share_of_labels(share):
    tokens = torch.randint(5, 50, (3, 40))
    labels = some_labels(tokens, share)
    assert int((labels != -100).sum()) == round(share * 120)
    assert ((labels == tokens) | (labels == -100)).all()


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match=r"peers=\['GPT'\] are not among \['Llama', "):
        BenchmarkArguments(peers=["GPT"])
    with pytest.raises(ValueError, match=r"tasks=\['singing'\] are not among \['training', .* 'memory'\]"):
        BenchmarkArguments(tasks=["singing"])


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="rounds=0 must be at least 1"):
        BenchmarkArguments(rounds=0)
