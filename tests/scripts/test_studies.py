"""What the studies share: arguments, runs that are kept, the spread, and parts of one report."""

import json
import re
import sys
from dataclasses import replace

import pytest

from trine.scripts.studies.study import Study, arguments_of, run_study, spread, write_part


class Counting:
    """A model's metric is its seed, or twice its seed."""

    title = "Counting seeds"
    description = "How well each model counts."
    models = ("single", "double")

    def __init__(self, data, output, scale):
        self.steps = int(1000 * scale)

    def run(self, name, seed):
        metrics = {"count": seed * (1 + self.models.index(name)), "nothing": float("nan")}
        return {"parameters": 1234, "steps": self.steps, "metrics": metrics, "samples": [f"{name} {seed}"]}


class Failing(Counting):
    title = "Failing"

    def run(self, name, seed):
        if name == "double":
            raise RuntimeError("interrupted")
        return super().run(name, seed)


STUDY = Study("study-tests", "Tests", "All of them.", "outputs/tests", {"counting": Counting, "failing": Failing})


def run(folder, *words):
    run_study(
        STUDY, ["--output_dir", str(folder), "--report", str(folder / "r" / "report.md"), *words], description=""
    )


def test_the_report_has_means_and_spreads_over_the_seeds(tmp_path):
    run(tmp_path, "--experiments", "counting", "--seeds", "4", "--scale", "2")
    report = (tmp_path / "r" / "report.md").read_text()
    assert report.startswith("# Tests\n\nAll of them.\n\n## Counting seeds\n\nHow well each model counts.\n\n")
    assert "| model | parameters | seeds | steps | count | nothing | seconds |\n" in report
    assert "| single | 1,234 | 4 | 2,000 | 1.500 (0.000 to 3.000) | - | 0 |\n" in report
    assert "| double | 1,234 | 4 | 2,000 | 3.000 (0.000 to 6.000) | - | 0 |\n" in report
    assert report.endswith("Samples of double, seed 3:\n\n* double 3\n") and "failing" not in report.lower()


def test_finished_runs_are_kept_and_not_repeated(tmp_path, capsys):
    with pytest.raises(RuntimeError, match="interrupted"):
        run(tmp_path, "--seeds", "1")
    kept = (tmp_path / "runs.jsonl").read_text()
    found = [json.loads(line) for line in kept.splitlines()]
    names = [("counting", "single"), ("counting", "double"), ("failing", "single")]
    assert [(run["experiment"], run["model"]) for run in found] == names and all(run["seed"] == 0 for run in found)
    with pytest.raises(RuntimeError, match="interrupted"):
        run(tmp_path, "--seeds", "1")
    assert (tmp_path / "runs.jsonl").read_text() == kept
    assert capsys.readouterr().out.count("already in") == 3


def test_models_and_seeds_can_be_chosen_and_runs_are_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(sys.modules[__name__], "STUDY", replace(STUDY, draw=lambda runs, folder: drawn.append(runs)))
    words = ["--experiments", "counting", "--seeds", "2"]
    run(tmp_path, *words, "--first_seed", "3", "--models", "double")
    run(tmp_path, *words)
    runs = [("double", 3), ("double", 4), ("single", 0), ("double", 0), ("single", 1), ("double", 1)]
    assert [(run["model"], run["seed"]) for run in drawn[1]] == runs and drawn[0] == drawn[1][:2]


def test_a_study_replaces_its_own_part_of_the_report_only(tmp_path):
    report = tmp_path / "r" / "report.md"
    report.parent.mkdir()
    before, after = "Written by hand.\n\n# Other tests\n\n## Table\n\n| a |\n|---|\n", "# Third\n\nIts text.\n"
    report.write_text(f"{before}\n# Tests\n\nOld text.\n\n## Old table\n\n{after}")
    run(tmp_path, "--experiments", "counting", "--seeds", "1")
    text = report.read_text()
    assert text.startswith(f"{before}\n# Tests\n\nAll of them.\n\n## Counting seeds") and text.endswith(f"\n\n{after}")
    assert "Old" not in text
    run(tmp_path, "--experiments", "counting", "--seeds", "1")
    assert report.read_text() == text


def test_a_new_part_comes_last(tmp_path):
    path = tmp_path / "report.md"
    write_part(path, "# One\n\nFirst.\n")
    write_part(path, "# Two\n\nSecond.\n")
    assert path.read_text() == "# One\n\nFirst.\n\n# Two\n\nSecond.\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"experiments": ["sorting"]}, r"experiments=\['sorting'\] are not among \['counting', 'failing'\]."),
        ({"models": ["triple"]}, r"models=\['triple'\] are not among \['single', 'double'\]."),
        ({"seeds": 0}, "seeds=0 must be at least 1."),
        ({"first_seed": -1}, "first_seed=-1 must be at least 0."),
        ({"scale": 0.0}, "scale=0.0 must be above 0."),
    ],
)
def test_bad_arguments_are_named(words, message, capsys):
    with pytest.raises(ValueError, match=message):
        arguments_of(STUDY)(**words)
    values = [f"--{name}={value[0] if isinstance(value, list) else value}" for name, value in words.items()]
    with pytest.raises(SystemExit) as stop:
        run_study(STUDY, values, description="")
    assert stop.value.code == 2 and re.search(message, capsys.readouterr().err)


def test_the_spread_is_the_mean_and_the_extremes():
    assert spread([1.0, 2.0, 6.0]) == "3.000 (1.000 to 6.000)" and spread([float("nan")]) == "-"


def test_what_follows_from_the_runs_stands_below_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(Counting, "conclude", lambda runs: f"{len(runs)} runs.", raising=False)
    run(tmp_path, "--experiments", "counting", "--seeds", "2")
    assert "seconds |" in (report := (tmp_path / "r" / "report.md").read_text())
    assert "|\n\n4 runs.\n\nSamples of double" in report
