"""The models of the study differ in the part of their name only, and claims are judged by texts and seeds."""

import json
import re

import numpy as np
import pytest
import torch

from trine.scripts.studies.claims import Claim, judge_all
from trine.scripts.studies.parts import EXPERIMENTS, Depth, FeedForwards, Parts, main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "package-descriptions"
    folder.mkdir()
    rows = [{"long": f"The package {i} has a library and its naïve tools.\nIt is number {i * i}."} for i in range(300)]
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder.parent


def runs_of(**losses):
    return [
        {"model": model, "seed": seed, "losses": list(values)}
        for model, rows in losses.items()
        for seed, values in enumerate(rows)
    ]


CLAIM = Claim("new", "old", "New beats old")
OLD = np.linspace(2, 3, 50)


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        ([OLD - 0.2, OLD - 0.1], "kept"),
        ([OLD + 0.2, OLD + 0.1], "refuted"),
        ([OLD - 0.3, OLD + 0.1], "undecided"),  # the seeds differ
        ([OLD - 0.01 + np.resize([1, -1], 50)] * 2, "undecided"),  # the texts differ
    ],
)
def test_a_claim_is_kept_where_all_seeds_and_the_interval_agree(new, verdict):
    told = CLAIM.judge(runs_of(new=new, old=[OLD, OLD]))
    difference = np.mean([rows - OLD for rows in new])
    assert told.startswith(f"* New beats old: **{verdict}**. new less old: {difference:+.3f} (")
    assert told.endswith("over seeds: 2).")


def test_the_interval_is_that_of_the_mean_over_texts():
    differences = np.random.default_rng(1).normal(-0.1, 1, 400)
    told = CLAIM.judge(runs_of(new=[OLD.mean() + differences], old=[np.full(400, OLD.mean())]))
    low, high = (float(value) for value in re.search(r"\(([+-][\d.]+) to ([+-][\d.]+) over texts", told).groups())
    error = 1.96 * differences.std() / 20
    assert low == pytest.approx(differences.mean() - error, abs=0.01)
    assert high == pytest.approx(differences.mean() + error, abs=0.01)


def test_only_seeds_of_both_models_count():
    runs = runs_of(new=[OLD - 0.1, OLD + 9], old=[OLD])
    assert "**kept** by one seed only." in CLAIM.judge(runs) and "over seeds: 1)." in CLAIM.judge(runs)
    assert judge_all([CLAIM, Claim("new", "none", "Not yet")], runs) == CLAIM.judge(runs)


def on_meta(experiment, name):
    with torch.device("meta"):
        return experiment.build(name)


def test_feed_forwards_are_equally_large_or_compute_equally_much(data):
    models = {name: on_meta(FeedForwards(data, data, 0.01), name) for name in FeedForwards.models}
    sizes = {name: model.num_parameters() for name, model in models.items()}
    plain = sizes["GELU"]
    assert sizes["ReLU"] == plain and sizes["SwiGLU"] == pytest.approx(plain, rel=0.01)
    assert sizes["experts"] == pytest.approx(sizes["GELU, four times as wide"], rel=0.01)
    config = models["experts"].config
    assert config.num_experts_per_tok * config.moe_intermediate_size == models["GELU"].config.intermediate_size
    assert config.num_experts * config.moe_intermediate_size == 4 * config.num_experts_per_tok * 128
    acts = {name: model.config.hidden_act for name, model in models.items()}
    assert acts == {"ReLU": "relu", "SwiGLU": "silu"} | dict.fromkeys(
        ("GELU", "experts", FeedForwards.models[-1]), "gelu"
    )


@pytest.fixture
def shallow(monkeypatch):
    monkeypatch.setattr(Depth, "sizes", Depth.sizes | {"num_hidden_layers": 2})


def test_undivided_projections_are_as_large_as_the_others(data, shallow):
    experiment = Depth(data, data, 0.02)
    spread = {}
    for name in ("post-norm", "post-norm, undivided"):
        torch.manual_seed(0)
        layer = experiment.build(name).model.layers[1]
        spread[name] = [weight.std().item() for weight in (layer.mlp.up_proj.weight, layer.mlp.down_proj.weight)]
    up, down = spread["post-norm, undivided"]
    assert down == pytest.approx(up, rel=0.05)  # both 128 by 32, by Xavier
    assert spread["post-norm"] == pytest.approx([up, down / 2])  # two layers have four sub-layers


def test_frequencies_are_those_of_the_training_split(data, shallow):
    experiment = Depth(data, data, 0.02)
    train, held_out = experiment.train_ids.flatten().tolist(), experiment.validation_ids[:, 1:].flatten().tolist()
    chances = [(train.count(token) + 1) / (len(train) + len(experiment.tokenizer)) for token in held_out]
    assert experiment.frequency_loss == pytest.approx(-float(np.log(chances).mean()), rel=1e-5)


def test_only_models_with_warmup_in_their_name_have_it(data, shallow, monkeypatch):
    seen = {}
    experiment = Depth(data, data, 0.02)
    for name in experiment.models:
        monkeypatch.setattr(
            "trine.scripts.studies.parts.train",
            lambda *_, has_warmup, name=name, **__: seen.update({name: has_warmup}),
        )
        experiment.train(name, None, 0)
        assert experiment.build(name).config.norm_position == name.partition("-")[0]
    assert seen == {name: "warm-up" in name for name in experiment.models} and sum(seen.values()) == 3


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_draws_and_concludes(name, data, tmp_path, shallow, monkeypatch):
    monkeypatch.setattr(Parts, "held_out", 8)
    monkeypatch.setattr(EXPERIMENTS[name], "held_out", 8)
    report = tmp_path / "report.md"
    words = ["--data_dir", str(data), "--output_dir", str(tmp_path), "--report", str(report), "--seeds", "1"]
    main([*words, "--experiments", name, "--scale", "0.04"])
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [run["model"] for run in runs] == list(EXPERIMENTS[name].models)
    for run in runs:
        assert np.mean(run["losses"]) == pytest.approx(run["metrics"]["loss"], abs=1e-3) and len(run["losses"]) == 8
    text = report.read_text()
    sentences = re.findall(
        r"^\* (.*): \*\*(?:kept|refuted|undecided)\*\* by one seed only\. ", text, flags=re.MULTILINE
    )
    assert sentences == [claim.says for claim in EXPERIMENTS[name].claims]
    assert (tmp_path / f"{name}-curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("below", "told"), [([0.1, 0.2], "`pre-norm`."), ([0.1, -0.1], "none, so that")])
def test_a_model_learns_from_the_context_if_it_does_with_every_seed(below, told):
    runs = [
        {"model": "pre-norm", "seed": seed, "losses": [], "metrics": {"below frequencies": gain}}
        for seed, gain in enumerate(below)
    ]
    assert Depth.conclude(runs).startswith(f"* Below the frequencies with every seed: {told}")
