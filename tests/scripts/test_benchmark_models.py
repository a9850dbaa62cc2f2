"""The benchmark runs, compares models of one size, and writes what it measured."""

import re

import pytest
import torch

from trine.scripts.benchmark_models import BenchmarkArguments, main, some_labels
from trine.scripts.benchmark_peers import PEERS, make_model


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("peer", PEERS)
def test_both_models_are_of_one_size(peer, quick):
    with torch.device("meta"):
        ours, theirs = (make_model(peer, who, quick, "meta", "float32") for who in ("Trine", peer))
    assert ours.num_parameters() == theirs.num_parameters()
    assert type(ours).__module__.startswith("trine.") and type(theirs).__module__.startswith("transformers.")


def test_a_quick_run_writes_its_report(tmp_path):
    file = tmp_path / "docs" / "report.md"
    words = ["--quick", "--rounds", "2", "--length", "32", "--new_tokens", "4", "--memory_batches", "2"]
    main([*words, "--output", str(file)])
    text = file.read_text()
    rows = re.findall(r"^\| ([\w ]+) \| ([\w ]+?)[,|]", text, flags=re.MULTILINE)
    expected = [(peer, task) for peer, entry in PEERS.items() for task in (*entry.tasks, "training peak memory")]
    assert [row for row in rows if row[0] in PEERS] == expected
    assert ("Trine with padding", "training on ragged texts") in rows
    assert "--rounds 2" in text


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
