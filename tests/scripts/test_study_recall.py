"""The tasks of the study are as described, models differ in their attention only, and the runs are reported."""

import json
import re

import pytest
import torch

from trine.modeling.attention.table import ATTENTIONS
from trine.modeling.losses import IGNORE_INDEX
from trine.scripts.studies.recall import (
    EXPERIMENTS,
    LENGTH,
    MODELS,
    WINDOW,
    RecallExperiment,
    by_distance,
    draw_runs,
    main,
    thin,
)
from trine.scripts.studies.recall_tasks import (
    FIRST_FILLER,
    FIRST_KEY,
    FIRST_VALUE,
    KEYS,
    NEEDLES,
    SYMBOLS,
    VALUES,
    VOCABULARY,
    copy,
    needle,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("length", [24, 100])
def test_each_question_is_answered_by_the_needle_that_has_its_key(length):
    batch = needle(40, length, generator())
    for ids, labels, distances in zip(*(part.tolist() for part in batch), strict=True):
        hay, questions = ids[: -2 * NEEDLES], ids[-2 * NEEDLES :]
        told = {
            divmod(token, VALUES)[0]: (place, token % VALUES) for place, token in enumerate(hay) if token < FIRST_KEY
        }
        assert len(told) == NEEDLES == len([token for token in hay if token < FIRST_KEY])
        assert all(FIRST_FILLER <= token < VOCABULARY for token in hay if token >= FIRST_KEY)
        for number, (key, value) in enumerate(zip(questions[::2], questions[1::2], strict=True)):
            assert FIRST_KEY <= key < FIRST_KEY + KEYS
            place, told_value = told.pop(key - FIRST_KEY)
            assert value == FIRST_VALUE + told_value
            assert distances[number] == len(hay) + 2 * number - place
        assert not told
        assert labels == [IGNORE_INDEX] * len(hay) + [
            token if n % 2 else IGNORE_INDEX for n, token in enumerate(questions)
        ]


def test_needles_lie_at_all_distances():
    distances = needle(2000, LENGTH, generator()).distances
    counts = torch.histc(distances.float(), 8, 0, LENGTH) / distances.numel()
    assert int(distances.min()) == 1 and int(distances.max()) == LENGTH - 2
    assert float(counts[1:7].min()) > 0.11 and float(counts[1:7].max()) < 0.15
    first_places = LENGTH - 2 * NEEDLES - distances[:, 0]  # the order of the questions says nothing of the places
    assert abs(float(first_places.float().mean()) - (LENGTH - 2 * NEEDLES - 1) / 2) < 6


@pytest.mark.parametrize(("length", "half"), [(9, 4), (10, 4), (LENGTH, 127)])
def test_what_is_copied_stands_before_the_separator(length, half):
    batch = copy(5, length, generator())
    for ids, labels, distances in zip(*(part.tolist() for part in batch), strict=True):
        assert len(ids) == 2 * half + 1 and ids[half] == SYMBOLS and max(ids[:half]) < SYMBOLS
        assert ids[half + 1 :] == ids[:half]
        assert labels == [IGNORE_INDEX] * (half + 1) + ids[:half]
        assert distances == [half] * half  # an answer is predicted by the token before it


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_models_differ_in_their_attention_only(name, tmp_path):
    experiment = EXPERIMENTS[name](tmp_path, tmp_path, 1.0)
    for model in MODELS:
        config = experiment.build(model).config
        assert config.attention_types == (model.split(", ") * 2)[:2] and config.hidden_size == 64
        assert config.attention_chunk_size == WINDOW < LENGTH / 4
        assert config.sliding_window == (WINDOW if "sliding" in config.attention_types else None)
    assert set(ATTENTIONS) <= set(MODELS) and "sliding, full" in MODELS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_batches_are_new_equally_large_and_end_at_the_full_length(name, tmp_path):
    experiment = EXPERIMENTS[name](tmp_path, tmp_path, 0.05)
    batches = [list(experiment.batches(seed)) for seed in (0, 0, 1)]
    assert len(batches[0]) == experiment.steps
    assert all(abs(batch["input_ids"].numel() - 2048) <= 16 for batch in batches[0])
    assert batches[0][-1]["input_ids"].shape[1] in (LENGTH - 1, LENGTH)
    firsts = [run[0]["input_ids"] for run in batches]
    assert torch.equal(firsts[0], firsts[1]) and not torch.equal(firsts[0], firsts[2])
    assert not torch.equal(batches[0][-1]["input_ids"], batches[0][-2]["input_ids"])


class Oracle(torch.nn.Module):
    """Answers right where the token before is even, whatever it is asked."""

    def forward(self, input_ids, use_cache):
        following = torch.cat((input_ids[:, 1:], input_ids[:, :1]), dim=1)
        answers = torch.where(input_ids % 2 == 0, following, (following + 1) % VOCABULARY)
        return type("Output", (), {"logits": torch.nn.functional.one_hot(answers, VOCABULARY).float()})


def test_answers_are_judged_by_the_token_before_them(tmp_path, monkeypatch):
    monkeypatch.setattr(RecallExperiment, "held_out", 70)
    experiment = EXPERIMENTS["needle"](tmp_path, tmp_path, 0.01)
    rights, distances = experiment.judge(Oracle())
    batch = needle(70, LENGTH, generator(9))
    expected = batch.input_ids[:, -2 * NEEDLES :: 2] % 2 == 0
    assert torch.equal(rights, expected.flatten()) and torch.equal(distances, batch.distances.flatten())
    metrics = experiment.metrics(rights, distances)
    near = [right for right, distance in zip(rights.tolist(), distances.tolist(), strict=True) if distance <= WINDOW]
    assert metrics["near"] == pytest.approx(sum(near) / len(near))
    share = len(near) / len(rights)
    assert metrics["accuracy"] == pytest.approx(share * metrics["near"] + (1 - share) * metrics["far"], rel=1e-5)


def test_accuracy_by_distance_and_learning_curves():
    rights, distances = torch.tensor([True, False, True, True]), torch.tensor([1, 31, 32, 255])
    assert by_distance(rights, distances) == {16: 0.5, 48: 1.0, 240: 1.0}
    assert thin([4.0, 2.0]) == {1: 4.0, 2: 2.0}
    assert thin([float(n) for n in range(1, 101)]) == {n: n - 0.5 for n in range(2, 101, 2)}


def test_pictures_of_means_over_seeds(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "trine.scripts.studies.recall.draw_curves",
        lambda curves, path, **_: drawn.update({path.name: curves}),
    )
    run = {"experiment": "needle", "by distance": {}}
    runs = [
        {**run, "model": "full", "seed": seed, "curve": {"1": 4.0 - seed, "2": 1.0 + seed}, "by distance": {"16": 1.0}}
        for seed in (0, 1)
    ]
    draw_runs(runs, tmp_path)
    assert drawn == {"needle-curve.png": {"full": {1.0: 3.5, 2.0: 1.5}}}  # one distance makes no picture


def test_runs_are_kept_split_and_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(RecallExperiment, "held_out", 8)
    words = [
        "--output_dir",
        str(tmp_path),
        "--report",
        str(tmp_path / "report.md"),
        "--scale",
        "0.005",
        "--seeds",
        "1",
    ]
    main([*words, "--models", "full", "sliding, full", "--first_seed", "1"])
    main([*words, "--models", "full", "sliding", "--first_seed", "1", "--experiments", "needle"])
    assert capsys.readouterr().out.count("already in") == 1
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [(run["experiment"], run["model"], run["seed"]) for run in runs] == [
        ("needle", "full", 1),
        ("needle", "sliding, full", 1),
        ("copy", "full", 1),
        ("copy", "sliding, full", 1),
        ("needle", "sliding", 1),
    ]
    text = (tmp_path / "report.md").read_text()
    assert re.findall(r"^#+ (.*)", text, re.MULTILINE) == [
        "What each attention kind recalls",
        "Needles in a haystack",
        "Copying",
    ]
    assert "| model | parameters | seeds | steps | accuracy | near | far | mean training loss | seconds |" in text
    assert len(re.findall(r"^\| (?:full|sliding|sliding, full) \| [\d,]+ \| 1 \| 2 \|", text, re.MULTILINE)) == 5
    for name in ("needle-curve", "needle-by-distance", "copy-curve"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns_two_steps(model, tmp_path, monkeypatch):
    monkeypatch.setattr(RecallExperiment, "held_out", 4)
    run = EXPERIMENTS["needle"](tmp_path, tmp_path, 0.005).run(model, 0)
    assert run["steps"] == len(run["curve"]) == 2 and 0 <= run["metrics"]["accuracy"] <= 1
