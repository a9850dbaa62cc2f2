"""The benchmark compares ways that compute the same, counts what it says, and writes its part of the report."""

import re

import pytest
import torch
from support.simplicial_reference import simplicial_reference

from trine.scripts.benchmarks import simplicial as benchmark_simplicial
from trine.scripts.benchmarks.simplicial import SimplicialBenchmarkArguments, main
from trine.scripts.benchmarks.simplicial_peers import (
    PATHS,
    cache_bytes,
    causal_options,
    count_pairs,
    decode_kernels,
    decode_layer,
    fill_cache,
    make_layer,
    make_states,
)
from trine.scripts.reports.markdown import Target, measure


TINY = ["--rounds", "2", "--short", "8", "--lengths", "16", "24", "--windows", "5", "3"]


@pytest.mark.parametrize("path", PATHS)
def test_all_paths_compute_the_same(path):
    torch.manual_seed(0)
    states = make_states(19, head_dim=8, dtype=torch.float64, requires_grad=True)
    options = causal_options([7, 3], 8)
    actual, expected = PATHS[path](*states, **options), simplicial_reference(*states, **options)
    torch.testing.assert_close(actual, expected)
    grads = (torch.autograd.grad(output, states, torch.ones_like(output)) for output in (actual, expected))
    for grad, other in zip(*grads, strict=True):
        torch.testing.assert_close(grad, other)


@pytest.mark.parametrize(("length", "windows"), [(1, [4, 4]), (9, [4, 2]), (9, [2, 30])])
def test_the_pairs_are_those_of_the_mask(length, windows):
    distance = torch.arange(length)[:, None] - torch.arange(length)
    first, second = ((distance >= 0) & (distance < size) for size in windows)
    assert count_pairs(length, windows) == int((first[:, :, None] & second[:, None]).sum())


def test_decoding_is_that_of_the_windows_of_a_whole_context():
    torch.manual_seed(0)
    kernels = decode_kernels(40, [7, 3])
    assert kernels["Trine"]().shape == kernels["SDPA"]().shape == (1, 8, 1, 64)
    for kind, growth in (("simplicial", 0), ("full", 1)):
        model = make_layer(kind, [7, 3])
        cache = fill_cache(model, 40, [7, 3])
        before = cache.get_seq_length()
        model.layers[0].self_attn(torch.randn(1, 1, 512), past_key_values=cache)
        assert (before, cache.get_seq_length()) == (40, 41)
        assert cache.layers[0].keys.shape[2] == (6 if growth == 0 else 41)
    assert decode_layer("simplicial", 40, [7, 3])()[0].shape == (1, 1, 512)


def test_the_cache_takes_no_more_than_both_windows():
    model = make_layer("simplicial", [16, 4])
    sizes = [cache_bytes(fill_cache(model, context, [16, 4], torch.bfloat16)) for context in (20, 300)]
    assert sizes == [2 * (16 + 4) * 8 * 64 * 2] * 2


@pytest.mark.parametrize(
    ("target", "ratio", "bound", "met"),
    [
        (Target(3.0), "2.50 (2.00 to 4.00)", "at least 3", "**no**"),
        (Target(2.5), "2.50 (2.00 to 4.00)", "at least 2.5", "yes"),
        (Target(0.4, is_least=False), "0.40 (0.25 to 0.50)", "at most 0.4", "yes"),
        (Target(0.3, is_least=False), "0.40 (0.25 to 0.50)", "at most 0.3", "**no**"),
    ],
)
def test_a_row_tells_whether_its_target_is_met(target, ratio, bound, met):
    row = target.row("this", "that", [2.0, 1.0, 4.0], [5.0, 4.0, 8.0], "ms")
    assert row == f"| this | that | 2.00 ms | 5.00 ms | {ratio} | {bound} | {met} |"


def test_a_row_of_speeds_and_one_without_a_target():
    speeds = Target(2.0).row("this", "that", [30.0], [10.0], "tokens/s")
    assert speeds == "| this | that | 30.00 tokens/s | 10.00 tokens/s | 3.00 | at least 2 | yes |"
    assert (
        Target(None).row("this", "that", [30.0], [10.0], "ms") == "| this | that | 30.00 ms | 10.00 ms | 0.33 |  |  |"
    )


def test_all_ways_take_turns():
    turns = []
    results = measure({name: lambda name=name: turns.append(name) for name in "ab"}, 2, 2)
    assert "".join(turns) == "bbaa" + "aabb" + "bbaa"
    assert {name: len(times) for name, times in results.items()} == {"a": 2, "b": 2}


def test_a_tiny_run_replaces_its_part_of_the_report(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark_simplicial, "in_fresh_process", lambda function, path, *_: len(path))
    file, threads = tmp_path / "report.md", torch.get_num_threads()
    file.write_text("# Report\n\n## Before\n\nText.\n\n## 2-simplicial attention\n\nOld.\n\n## Behind\n\nText.\n")
    main([*TINY, "--report", str(file)])
    torch.set_num_threads(threads)
    text = file.read_text()
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    assert [part.partition("\n")[0] for part in parts] == [
        "# Report",
        "## Before",
        "## 2-simplicial attention",
        "## Behind",
    ]
    assert "Old." not in text and "--windows 5 3" in parts[2]
    rows = re.findall(r"^\| (?!what)([^|]+) \| ([^|]+) \| .* \| at (?:least|most) [\d.]+ \| ", parts[2], re.MULTILINE)
    assert ("memory of both, 8 tokens", "naive einsum") in rows
    for peer in ("chunked autograd", "same chunks, autograd"):
        assert ("forward and backward, 16 tokens", peer) in rows
    assert ("decoding, layer and cache, context 16", "SDPA") in rows
    assert ("decoding, layer and cache, context 24", "itself, context 16") in rows
    assert len([row for row in rows if row[1] != "simplicial-attention"]) == 16
    assert "| memory of both, 8 tokens | naive einsum | 5.00 MiB | 12.00 MiB | 2.40 |" in parts[2]
    assert "simplicial-attention is left out: " in capsys.readouterr().out or len(rows) == 18


def test_one_part_alone_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark_simplicial, "in_fresh_process", lambda function, path, *_: len(path))
    file, threads = tmp_path / "report.md", torch.get_num_threads()
    main([*TINY, "--parts", "chunks", "--report", str(file)])
    torch.set_num_threads(threads)
    rows = re.findall(r"^\| ([^|]+) \| same chunks, autograd \|", file.read_text(), re.MULTILINE)
    assert rows == ["forward and backward, 16 tokens", "memory of both, 16 tokens"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"lengths": []}, r"lengths=\[\] must be at least 1"),
        ({"parts": ["chunk"]}, r"parts=\['chunk'\] are not among \['naive', "),
        ({"windows": [512]}, r"windows=\[512\] must be two sizes"),
    ],
)
def test_bad_arguments_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SimplicialBenchmarkArguments(**fields)
