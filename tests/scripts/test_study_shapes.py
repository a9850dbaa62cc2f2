"""Every experiment of the study runs on made-up data, keeps finished runs, and writes its tables."""

import json
import re

import pytest

from trine.scripts.studies.shapes import EXPERIMENTS, Pretraining, Translation, main


def write(folder, rows):
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sections = Pretraining.sections
    long = "The first sentence has words. The second one, too! Has a third?\nA new paragraph {}."
    rows = [{"section": sections[i % 14], "short": f"tool {i}", "long": long.format(i)} for i in range(60)]
    write(folder / "package-descriptions", rows)
    write(
        folder / "zh-ner",
        [{"tokens": list("王明在北京。"), "tags": ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"]}] * 40,
    )
    pairs = [{"zh": f"打开窗口{i}。", "en": f"Open window {i}.", "source": "libreoffice-help"} for i in range(200)]
    write(folder / "zh-en", pairs)
    return folder


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_and_is_not_run_twice(name, data, tmp_path, capsys):
    words = ["--data_dir", str(data), "--output_dir", str(tmp_path / "runs"), "--report", str(tmp_path / "report.md")]
    words += ["--experiments", name, "--seeds", "1", "--scale", "0.002"]
    main(words)
    models = EXPERIMENTS[name].models
    runs = [json.loads(line) for line in (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()]
    assert [run["model"] for run in runs] == list(models)
    report = (tmp_path / "report.md").read_text()
    assert EXPERIMENTS[name].title in report
    assert re.findall(r"^\| ([\w, ]+) \| [\d,]+ \| 1 \| \d+ \|", report, flags=re.MULTILINE) == list(models)
    main(words)
    assert (tmp_path / "runs" / "runs.jsonl").read_text().count("\n") == len(models)
    assert capsys.readouterr().out.count("already in") == len(models)


def test_the_translators_have_equal_numbers_of_parameters(data, tmp_path):
    translation = Translation(data, tmp_path, 1.0)
    sizes = [translation.build(name).num_parameters() for name in translation.models]
    assert max(sizes) / min(sizes) < 1.03


def test_missing_data_says_how_to_build_it(tmp_path):
    with pytest.raises(SystemExit, match="trine study shapes: .* build it with: trine data fetch --output_dir"):
        main(["--data_dir", str(tmp_path), "--output_dir", str(tmp_path), "--experiments", "tagging"])
