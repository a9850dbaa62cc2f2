"""The benchmark fits exponents that are known, measures what it says, and writes its part of the report."""

import json
import math
import sys

import pytest
import torch

from trine import TrineConfig, TrineModel
from trine.scripts.benchmarks import attention as benchmark_attention
from trine.scripts.benchmarks.attention import main
from trine.scripts.benchmarks.attention_arguments import AttentionBenchmarkArguments
from trine.scripts.benchmarks.attention_layers import (
    EAGER,
    HIDDEN,
    WAYS,
    Layer,
    decoding,
    make_model,
    training,
    training_memory,
)
from trine.scripts.benchmarks.attention_peers import PEERS
from trine.scripts.benchmarks.attention_report import exponents, faster_from, fit_exponent, growth_table, variation
from trine.scripts.reports.markdown import in_fresh_process


LENGTHS = [512 * 2**power for power in range(7)]


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.15, 2.0])
def test_the_exponent_of_a_power_is_found(exponent):
    assert fit_exponent({n: 3e-4 * n**exponent for n in LENGTHS}) == pytest.approx(exponent)


def test_noise_about_a_power_is_averaged_as_least_squares_do():
    """Symmetric factors leave the slope: by the closed form, the sum of (x - mean) * noise is 0."""
    factors = [1.1, 0.9, 1.0, 1.0, 1.0, 0.9, 1.1]
    assert fit_exponent({n: 5 * n * f for n, f in zip(LENGTHS, factors, strict=True)}) == pytest.approx(1.0)
    assert fit_exponent({1: 1.0, 4: 8.0}) == pytest.approx(1.5)
    assert math.isnan(fit_exponent({512: 1.0}))


def test_exponents_are_those_of_long_texts_and_of_single_rounds():
    figures = {n: [7.0 if n < 2048 else n**power for power in (1.0, 1.2, 1.4)] for n in LENGTHS}
    assert exponents(figures, 2048) == pytest.approx([1.2, 1.0, 1.4])
    figures[32768].append(1e9)  # a round that the others lack
    figures[32768].append(0.0)
    assert exponents(figures, 2048)[1:] == pytest.approx([1.0, 1.4])


@pytest.mark.parametrize(
    ("ours", "start"),
    [([1, 1, 1], 2), ([9, 3, 1], 8), ([9, 2, 1], 4), ([1, 9, 1], 8), ([1, 1, 16], None), ([3, 3, 99], None)],
)
def test_a_kind_is_faster_from_where_it_stays_faster(ours, start):
    full = {2: [2.0], 4: [3.0], 8: [16.0]}
    figures = {n: [float(time)] * 3 for n, time in zip((2, 4, 8), ours, strict=True)}
    assert faster_from({**figures, 16: [1.0]}, full) == start
    assert faster_from(figures, {}) is None


def test_the_variation_is_a_share_of_the_median():
    assert variation([4.0, 5.0, 7.0]) == pytest.approx(0.6)


def test_a_table_tells_exponents_targets_and_crossings():
    arguments = AttentionBenchmarkArguments(kinds=["full", "sliding", "chunked"], lengths=[1024, 2048, 4096])
    figures = {
        "full": {n: [(n / 1024) ** 2] * 3 for n in (1024, 2048)},
        "sliding": {n: [n / 512] * 3 for n in (1024, 2048, 4096)},
        "chunked": {n: [0.5 * (n / 1024) ** 1.5] * 3 for n in (1024, 2048, 4096)},
    }
    rows = growth_table(figures, "ms", arguments).splitlines()
    assert rows[0] == "| ms | 1024 | 2048 | 4096 | exponent | at most 1.15 | below full from |"
    assert rows[2] == "| full | 1.0 | 4.0 |  | - |  |  |"
    assert rows[3] == "| sliding | 2.0 | 4.0 | 8.0 | 1.00 | yes | - |"
    assert rows[4] == "| chunked | 0.5 | 1.4 | 4.0 | 1.50 | **no** | 1024 |"


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_layer_is_that_of_a_model_of_its_kind(way, is_causal):
    """The model around the layer, in which nothing else changes the tokens, adds what the layer returns."""
    layer = Layer(way, is_causal, 512).eval()
    model = layer.model
    assert model.config.attention_types == [way.partition(",")[0]] and model.config.is_causal == is_causal
    model.norm = model.layers[0].input_layernorm = torch.nn.Identity()
    with torch.no_grad():
        model.layers[0].mlp.down_proj.weight.zero_()
        hidden = torch.randn(1, 300, HIDDEN)
        expected = model(inputs_embeds=hidden, use_cache=False).last_hidden_state - hidden
        torch.testing.assert_close(layer(hidden), expected, rtol=1e-4, atol=1e-5)


def test_a_training_pass_leaves_gradients_of_one_pass():
    layer = Layer("full", True, 64)
    run = training(layer, 9)
    run()
    parameters = [parameter for parameter in layer.parameters() if parameter.grad is not None]
    first = [parameter.grad.clone() for parameter in parameters]
    run()
    assert len(parameters) == 4
    torch.testing.assert_close([parameter.grad for parameter in parameters], first)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_grows_by_what_a_layer_keeps():
    """The table of weights, 16 MiB of four heads, is there twice at least (it and its gradient)."""
    small, large = (in_fresh_process(training_memory, EAGER, True, 1024, n, is_forked=True) for n in (64, 1024))
    table = 4 * 1024**2 * 4 / 2**20  # heads, pairs, bytes
    assert 2 * table < large - small < 12 * table


@pytest.mark.parametrize("way", [way for way in WAYS if way != EAGER])
def test_decoding_adds_tokens_to_the_cache_of_a_whole_text(way, monkeypatch):
    caches = []
    make_cache = TrineModel.make_cache
    monkeypatch.setattr(TrineModel, "make_cache", lambda self: caches.append(make_cache(self)) or caches[-1])
    step = decoding(way, 40, 64)
    assert caches[0].get_seq_length() == 40
    assert step().shape == step().shape == (1, 1, HIDDEN) and caches[0].get_seq_length() == 42


@pytest.mark.parametrize(
    ("name", "is_causal"), [(name, shape) for name, peer in PEERS.items() for shape in peer.shapes]
)
def test_peers_map_tokens_to_tokens_and_compute_a_gradient(name, is_causal):
    peer, length = PEERS[name], 1024  # BigBird's layer of the library needs this many
    if peer.kind not in WAYS:
        pytest.skip(f"{peer.kind} is not in the table")
    try:
        layer = peer.build(make_model(peer.kind, is_causal, length, **peer.fields(length)).config)
    except ImportError:
        pytest.skip(f"{name} is not installed")
    hidden = torch.randn(1, length, HIDDEN, requires_grad=True)
    output = layer(hidden)
    assert output.shape == hidden.shape
    output.sum().backward()
    assert hidden.grad is not None and bool(hidden.grad.abs().sum() > 0)


def test_peers_have_our_settings():
    config = TrineConfig(hidden_size=HIDDEN, num_attention_heads=4, lsh_num_hashes=3, lsh_num_buckets=6)
    layer = PEERS["transformers, Reformer"].build(config).attention
    assert (layer.num_hashes, layer.num_buckets, layer.chunk_length) == (3, 6, config.lsh_chunk_length)
    assert (layer.num_chunks_before, layer.num_chunks_after, layer.is_decoder) == (1, 0, True)
    layer = PEERS["transformers, BigBird"].build(config).attention
    assert (layer.block_size, layer.num_random_blocks) == (64, 3)


def test_a_tiny_run_writes_numbers_pictures_and_its_part(tmp_path, monkeypatch):
    monkeypatch.setattr(
        benchmark_attention, "in_fresh_process", lambda function, way, causal, longest, n, is_forked: n / 64
    )
    threads, file = torch.get_num_threads(), tmp_path / "report.md"
    file.write_text("# Report\n\n## Before\n\nText.\n")
    words = ["--kinds", "full", "sliding", EAGER, "--lengths", "32", "64", "128", "--fit_from", "32", "--rounds", "1"]
    words += ["--longest_full", "64", "--longest_eager", "32", "--peer_length", "0"]
    main([*words, "--output_dir", str(tmp_path / "out"), "--report", str(file)])
    torch.set_num_threads(threads)
    text = file.read_text()
    assert text.startswith("# Report\n\n## Before\n\nText.\n\n## Attention kinds against length, decoder\n\nMade on ")
    assert "| sliding | 0.5 | 1.0 | 2.0 | 1.00 | yes | - |" in text and "| full | 0.5 | 1.0 |  | 1.00 |  |  |" in text
    assert "| ms a token after | 32 | 64 | last over first | flat: at most 1.2 |" in text
    assert "implementations" not in text
    results = json.loads((tmp_path / "out" / "decoder.json").read_text())
    assert list(results["forward"]["sliding"]) == ["32", "64", "128"] and list(results["forward"][EAGER]) == ["32"]
    assert len(results["forward and backward"]["full"]["64"]) == 4 and len(results["decoding"]["full"]["32"]) == 3
    for name in ("forward", "forward-and-backward", "memory", "decoding"):
        assert (tmp_path / "out" / f"decoder-{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kinds": ["fool"]}, r"kinds=\['fool'\] are not among \['full', "),
        ({"shape": "seq2seq"}, r"shape='seq2seq' is not one of \['decoder', 'encoder'\]"),
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"lengths": []}, r"lengths=\[\] must be at least 1"),
        ({"peer_length": 100}, "peer_length=100 must be a multiple of 128"),
    ],
)
def test_bad_arguments_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        AttentionBenchmarkArguments(**fields)
