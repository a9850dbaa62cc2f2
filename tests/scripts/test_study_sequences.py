"""The task of the study is as described, its differences are those of the models, and every model runs."""

import json
import re
from functools import cache

import numpy as np
import pytest
from transformers import set_seed

from trine.scripts.studies.sequence_tasks import END, FIRST, LONGEST, collate, cut_texts, decode, distance
from trine.scripts.studies.sequences import ATTENTION, FIXED, MODELS, SAMPLED, Vowels, main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "package-descriptions"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = [json.dumps({"short": f"Library No. {n}: fast & small"}) for n in range(20)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder.parent


def test_texts_are_whole_words_of_random_lengths():
    text = "Fast, small & 2x (new) library"
    clean = "fast, small 2x (new) library"
    cuts = set(cut_texts([text] * 400, np.random.default_rng(0)))
    wholes = {clean[:end] for end in range(LONGEST + 1) if clean[end] == " "}
    parts = {clean[:end] for end in range(1, 5)}
    assert cuts == wholes | parts
    assert cut_texts(["!!"], np.random.default_rng(0)) == ["a"]


def test_sources_lack_the_vowels():
    batch = collate(["open a io", "by"])
    assert decode(batch["input_ids"]) == ["pn  ", "by"]
    assert decode(batch["labels"].clamp(min=0)) == ["open a io", "by"]
    assert batch["input_ids"].tolist()[1][:3] == [FIRST + 2, FIRST + 25, END]
    assert batch["attention_mask"].sum(1).tolist() == [5, 3] and (batch["labels"] >= 0).sum(1).tolist() == [10, 3]


def test_distances_are_those_of_the_recursion():
    @cache
    def expected(one, other):
        if not one or not other:
            return len(one) + len(other)
        replaced = expected(one[1:], other[1:]) + (one[0] != other[0])
        return min(replaced, expected(one[1:], other) + 1, expected(one, other[1:]) + 1)

    generator = np.random.default_rng(0)
    for _ in range(50):
        one, other = ("".join(generator.choice([*"abc"], generator.integers(0, 7))) for _ in range(2))
        assert distance(one, other) == expected(one, other)


def test_the_conclusion_is_the_mean_difference_over_seeds():
    sizes = [4, 10, 20]
    edits = {FIXED: [[4, 10, 20], [4, 10, 20]], ATTENTION: [[1, 5, 5], [1, 0, 5]], SAMPLED: [[1, 5, 5], [1, 0, 5]]}
    runs = [
        {"model": name, "seed": seed, "edits": row, "sizes": sizes}
        for name, rows in edits.items()
        for seed, row in enumerate(rows)
    ]
    first, second, _, *verdicts = Vowels.conclude(runs).splitlines()[2:]
    all_of, *classes = [cell.split()[0] for cell in first.split(" | ")[1:]]
    assert all_of == f"{-100 * (3 + 7.5 + 15) / 34:+.1f}" and classes == ["-75.0", "-75.0", "-75.0"]
    assert re.findall(r"[+-][\d.]+", second) == ["+0.0"] * 12
    assert ["**kept**. attention less fixed vector: -8.500" in line for line in verdicts] == [True, False]
    assert "**undecided**" in verdicts[1] and len(verdicts) == 2
    assert Vowels.conclude(runs[:3]).splitlines()[2].split(" | ")[1].startswith(f"{-100 * 23 / 34:+.1f}")  # seed 0
    assert len(Vowels.conclude(runs[:2]).splitlines()) == 2


def test_all_models_run_and_read_their_own_tokens_where_asked(data, tmp_path):
    words = ["--data_dir", str(data), "--output_dir", str(tmp_path), "--report", str(tmp_path / "report.md")]
    main([*words, "--seeds", "1", "--scale", "0.004"])
    report = (tmp_path / "report.md").read_text()
    assert re.findall(r"^\| ([\w, ]+) \| [\d,]+ \| 1 \| 2 \|", report, flags=re.MULTILINE) == [*MODELS]
    assert "| attention, scheduled sampling, beside attention |" in report
    experiment = Vowels(data, tmp_path, 0.02)
    set_seed(0)
    with pytest.raises(AttributeError):  # there is no model to draw from
        list(experiment.batches(None, 0, lambda done: 0.5))
    batches = [*experiment.batches(None, 0, lambda done: 1.0)]
    assert len(batches) == 10 and all("decoder_input_ids" not in batch for batch in batches)
