"""The benchmark runs, compares models of one size, and writes what it measured."""

import re

import pytest

from trine.scripts.benchmark_models import BenchmarkArguments, main, make_model


@pytest.mark.parametrize("size", ["quick", "full"])
@pytest.mark.parametrize("peer", ["Llama", "Mixtral"])
def test_both_models_are_of_one_size(peer, size):
    ours, theirs = (make_model(peer, who, size, "meta", "float32") for who in ("Trine", peer))
    assert ours.num_parameters() == theirs.num_parameters()
    assert type(ours).__name__ == "TrineForCausalLM" and type(theirs).__name__ == f"{peer}ForCausalLM"


def test_a_quick_run_writes_its_report(tmp_path):
    file = tmp_path / "docs" / "report.md"
    words = ["--quick", "--rounds", "2", "--length", "32", "--new_tokens", "4", "--memory_batches", "2"]
    main([*words, "--output", str(file)])
    text = file.read_text()
    rows = re.findall(r"^\| (Llama|Mixtral) \| ([\w ]+?)[,|]", text, flags=re.MULTILINE)
    tasks = ["training", "prefill", "decoding", "training peak memory"]
    assert rows == [(peer, task) for peer in ("Llama", "Mixtral") for task in tasks]
    assert "--rounds 2" in text


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="rounds=0 must be at least 1"):
        BenchmarkArguments(rounds=0)
