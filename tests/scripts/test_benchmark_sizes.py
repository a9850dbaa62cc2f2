"""The benchmark of small decoders compares models of one size, and writes what it measured."""

import re

import pytest
import torch

from trine.scripts.benchmarks.sizes import SIZES, SizeArguments, main, make_pair


@pytest.mark.parametrize("size", SIZES)
def test_both_models_are_of_one_size(size):
    with torch.device("meta"):
        ours, theirs = make_pair(size)
    assert ours.num_parameters() == theirs.num_parameters()
    assert type(ours).__module__.startswith("trine.") and type(theirs).__module__.startswith("transformers.")


def test_a_run_writes_its_report(tmp_path):
    file = tmp_path / "report.md"
    tasks = ["one", "eight", "training", "half", "precisions"]
    words = ["--sizes", "1M", "--rounds", "1", "--new_tokens", "2", "--length", "8", "--tasks", *tasks]
    main([*words, "--output", str(file)])
    rows = re.findall(
        r"^\| 1M: (.+?) \| ([\w ]+) \| [\d.,]+ tokens/s \| [\d.,]+ tokens/s \| [\d.]+ \| (.*?) \|",
        file.read_text(),
        flags=re.MULTILINE,
    )
    half = "training, 16 x 8 tokens, bfloat16"
    assert rows == [
        ("decoding, 1 text", "Llama", "at least 1.3"),
        ("decoding, 8 texts", "Llama", "at least 1.2"),
        ("training, 16 x 8 tokens, float32", "Llama", ""),
        (half, "Llama", "at least 1.3"),
        (half, "Trine in float32", ""),
    ]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"sizes=\['2M'\] are not among \['1M', "):
        SizeArguments(sizes=["2M"])
    with pytest.raises(ValueError, match=r"tasks=\['two'\] are not among \['one', "):
        SizeArguments(tasks=["two"])
    with pytest.raises(ValueError, match="rounds=0 must be at least 1"):
        SizeArguments(rounds=0)
