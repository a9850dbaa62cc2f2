"""The jobs of series: training, forecasting, the benchmark, and what their files may hold."""

import csv
import json
import math
from datetime import datetime, timedelta

import numpy as np
import pytest

from trine.scripts import forecast, train_series
from trine.scripts.benchmarks import series as benchmark
from trine.scripts.jobs.series_files import following_times, read_series
from trine.tokenization.records import BadRecords
from trine.training.data.series import Series, Windows, seasonal_naive
from trine.training.measures.forecasts import scores_of_windows


SMALL = ["--context_length", "24", "--prediction_length", "6", "--patch_length", "6", "--patch_stride", "6"]
SMALL += ["--config_overrides", "hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2", "--season", "12"]
QUICK = ["--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]


def rows(count=240, start=0):
    """Hours of a wave of 12 steps and of its double, with a little noise."""
    noise = np.random.default_rng(0).normal(size=count) * 0.05
    first = datetime(2024, 3, 1)
    for step in range(start, start + count):
        value = math.sin(step * math.tau / 12) + noise[step - start]
        yield {"time": (first + timedelta(hours=step)).isoformat(), "a": 5 + value, "b": 50 + 9 * value, "note": "x"}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def read(files, time_field=None, value_fields=(), series_field=None):
    bad = BadRecords()
    found = read_series([str(file) for file in files], time_field, value_fields, series_field, bad)
    bad.check()
    return found


def run(tmp_path, *argv, output="out"):
    assert train_series.main(["--output_dir", str(tmp_path / output), "--disable_tqdm", "true", *argv]) == 0
    return json.loads((tmp_path / output / "metrics.json").read_text())


@pytest.fixture
def stopped(tmp_path, capsys):
    """A function that runs the command with arguments that it refuses, and returns what it says."""

    def run_and_stop(*argv, main=train_series.main, output="--output_dir"):
        with pytest.raises(SystemExit) as stop:
            main([output, str(tmp_path / "refused"), *argv])
        return f"{stop.value.code} {capsys.readouterr().err}"

    return run_and_stop


def test_waves_are_learned_and_forecast(tmp_path, capsys):
    files = write(tmp_path / "a.jsonl", rows())
    argv = ["--files", files, "--time_field", "time", *SMALL, "--num_train_epochs", "12", "--learning_rate", "5e-3"]
    metrics = run(tmp_path, *argv, "--per_device_train_batch_size", "16")
    scores = metrics["scores"]
    assert scores["model"]["mase"] < 1.5 * scores["seasonal naive"]["mase"] < 2 and scores["model"]["coverage"] > 0.3
    out = capsys.readouterr().out
    assert "a, b: 240 steps." in out and "seasonal naive" in out
    for name in ("loss.png", "forecast.png", "series.json", "README.md"):
        assert (tmp_path / "out" / name).stat().st_size > 20
    assert "| seasonal naive |" in (tmp_path / "out/README.md").read_text()
    output, picture = tmp_path / "next.csv", tmp_path / "next.png"
    argv = ["--model", str(tmp_path / "out"), "--files", files, "--output", str(output), "--picture", str(picture)]
    assert forecast.main(argv) == 0
    with output.open() as file:
        found = list(csv.DictReader(file))
    assert [row["time"] for row in found] == [row["time"] for row in rows(6, start=240)]
    for row, expected in zip(found, (math.sin(step * math.tau / 12) for step in range(240, 246)), strict=True):
        assert float(row["a"]) == pytest.approx(5 + expected, abs=0.8)
        assert float(row["a_q0.1"]) <= float(row["a"]) <= float(row["a_q0.9"])
    assert picture.exists()
    capsys.readouterr()
    assert forecast.main(argv[:4]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_formats_gaps_and_order_are_the_same_series(tmp_path):
    records = list(rows(60))
    lines = write(tmp_path / "a.jsonl", records[::-1])
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*records[0]])
        writer.writeheader()
        writer.writerows({**record, "b": "" if number == 7 else record["b"]} for number, record in enumerate(records))
    ((one,), fields), ((other,), _) = (read([file], "time", ["a", "b"]) for file in (lines, tmp_path / "a.csv"))
    assert fields == ["a", "b"] and np.isnan(other.values[7, 1]) and one.times[0] == datetime(2024, 3, 1)
    np.testing.assert_allclose(np.delete(one.values, 7, 0), np.delete(other.values, 7, 0))
    ((gap,), _) = read([write(tmp_path / "g.jsonl", records[:10] + records[13:])], "time")
    assert gap.values.shape == (60, 2) and np.isnan(gap.values[10:13]).all()
    assert gap.times == one.times and following_times(gap.times, 1) == [one.times[-1] + timedelta(hours=1)]
    months = [{"t": f"2023-{month:02}-01", "x": month} for month in range(1, 13)]
    ((year,), _) = read([write(tmp_path / "m.jsonl", months)], "t")
    assert year.values[:, 0].tolist() == [*range(1, 13)]
    several = [{"s": name, "x": number} for number in range(5) for name in "pq"]
    found, _ = read([write(tmp_path / "s.jsonl", several)], None, ["x"], "s")
    assert [(each.name, each.values[:, 0].tolist()) for each in found] == [
        ("p", [0, 1, 2, 3, 4]),
        ("q", [0, 1, 2, 3, 4]),
    ]


def test_windows_hold_what_a_loop_finds():
    values = np.arange(40.0).reshape(20, 2)
    values[3, 0] = np.nan
    windows = Windows([Series(values)], [(1, 14)], 6, 3, 2, [np.array([2.0, 4.0])])
    assert [start for _, start in windows.places] == [1, 3, 5, 7, 9, 11]
    for index, (_, start) in enumerate(windows.places):
        item = windows[index]
        for step in range(6):
            place = start - 6 + step
            seen = place >= 0 and not math.isnan(values[place, 0])
            assert item["past_observed_mask"][step, 0] == seen
            assert item["past_values"][step, 0] == (values[place, 0] if seen else 0)
        np.testing.assert_array_equal(item["future_values"][:, 1], values[start : start + 3, 1])
        assert item["loss_scale"].tolist() == [[2.0, 4.0]]
    assert Series(values).seasonal_difference(2, 20).tolist() == [4.0, 4.0]
    assert Series(np.ones((9, 1))).seasonal_difference(1, 9).tolist() == [1.0]


def test_the_naive_forecast_repeats_the_last_season():
    values = np.array([[1.0], [2.0], [3.0], [4.0], [np.nan], [6.0]])
    assert seasonal_naive(values, 3, 5)[:, 0].tolist() == [4.0, 2.0, 6.0, 4.0, 2.0]
    assert seasonal_naive(values[4:5], 1, 2)[:, 0].tolist() == [0.0, 0.0]


def test_scores_are_those_of_the_definitions():
    generator = np.random.default_rng(0)
    predicted, future = np.sort(generator.normal(size=(4, 5, 2, 3))), generator.normal(size=(4, 5, 2))
    scales, levels = generator.uniform(1, 2, size=(4, 2)), (0.25, 0.5, 0.75)
    future[1, 2, 0] = np.nan
    found = scores_of_windows(predicted, future, scales, levels)
    for window in range(4):
        errors, shares, ranked, inside = [], [], [], []
        for step in range(5):
            for channel in range(2):
                value, quantiles = future[window, step, channel], predicted[window, step, channel]
                if math.isnan(value):
                    continue
                unit = scales[window, channel]
                errors.append(abs(value - quantiles[1]) / unit)
                shares.append(200 * abs(value - quantiles[1]) / (abs(value) + abs(quantiles[1])))
                losses = [
                    (level if value > q else level - 1) * (value - q)
                    for level, q in zip(levels, quantiles, strict=True)
                ]
                ranked.append(2 * sum(losses) / 3 / unit)
                inside.append(quantiles[0] <= value <= quantiles[2])
        expected = [np.mean(each) for each in (errors, shares, ranked, inside)]
        np.testing.assert_allclose([found[name][window] for name in ("mase", "smape", "crps", "coverage")], expected)


def test_a_run_is_resumed_and_a_model_goes_on(tmp_path):
    files = ["--files", write(tmp_path / "a.jsonl", rows(120)), "--time_field", "time"]
    argv = [*files, *SMALL, "--eval_strategy", "steps", "--eval_steps", "2"]
    argv += ["--save_strategy", "steps", "--save_steps", "2"]
    assert run(tmp_path, *argv, "--max_steps", "2")["steps"] == 2
    assert run(tmp_path, *argv, "--max_steps", "4", "--resume_from_checkpoint", "last")["steps"] == 4
    assert run(tmp_path, *files, "--model", str(tmp_path / "out"), *QUICK, output="more")["steps"] == 2


def test_what_cannot_be_used_ends_with_one_line(tmp_path, stopped):
    records = list(rows(120))
    files = ["--files", write(tmp_path / "a.jsonl", records)]
    for argv, message in (
        (["--time_field", "when"], "the field 'when' is missing from"),
        (["--value_fields", "note"], "the field 'note' holds 'x', which is no number"),
        (["--time_field", "note"], "the field 'note' holds 'x', which is neither a date nor a number"),
        (["--season", "0"], "season=0 must be at least 1."),
        (["--test_fraction", "0.5"], "test_fraction=0.5 must be between 0 and 0.5."),
        (["--prediction_length", "50"], "There is no window to validate with"),
        (["--patch_length", "30"], "patch_length=30 is above context_length=24."),
        (["--config_overrides", "hidden=3"], "TrineConfig has no field 'hidden'"),
        (["--model", "x"], "are of a new model, but model='x'"),
        (["--metric_for_best_model", "mse"], "mse"),
    ):
        assert message in stopped(*files, *SMALL, *argv), argv
    for changed, message in (
        (records[:5] + records[4:], "holds 2024-03-01 04:00:00 twice, or nearly"),
        ([*records, {**records[0], "time": "2024-03-20T00:30:00"}], "is not evenly spaced: after"),
        ([*records, {**records[0], "time": "2034-03-20T00:00:00"}], "leaves out 8"),
        ([*records, {**records[0], "time": 7}], "holds times that cannot be compared"),
        ([{**records[0], "time": "nan"}], "the field 'time' holds 'nan', which is no time"),
        ([{"time": "2024-01-01", "a": "x"}], "none of the fields ['a', 'time'] holds a number"),
        ([], "hold no record."),
    ):
        path = write(tmp_path / "changed.jsonl", changed)
        assert message in stopped("--files", path, "--time_field", "time", *SMALL), message
    run(tmp_path, *files, "--time_field", "time", *SMALL, *QUICK)
    model = ["--model", str(tmp_path / "out")]
    assert "reads num_input_channels=2, but there are 1 value_fields" in stopped(*files, *model, "--value_fields", "a")
    refused = stopped(*files, *model, "--value_fields", "a", main=forecast.main, output="--picture")
    assert "value_fields=['a'] are 1, but model=" in refused
    ending = stopped(*files, *model, "--output", "x.txt", main=forecast.main, output="--picture")
    assert "output='x.txt' must end in one of ['.jsonl', '.csv']." in ending


def test_the_benchmark_measures_every_model(tmp_path, capsys, stopped):
    files = write(tmp_path / "a.jsonl", rows(160))
    argv = ["--files", files, "--time_field", "time", "--season", "12", *SMALL[:8], "--hidden_size", "16"]
    argv += ["--num_hidden_layers", "1", "--num_attention_heads", "2", "--steps", "2", "--seeds", "1"]
    benchmark.main([*argv, "--attention_types", "linear", "--output", str(tmp_path / "figures.json")])
    found = json.loads((tmp_path / "figures.json").read_text())["runs"]
    assert [row["model"] for row in found] == [benchmark.NAIVE, benchmark.PEER, benchmark.EQUAL, "linear"]
    # PatchTST has no norm after the last layer, with two weights a feature; all else is equal.
    assert found[2]["parameters"] == found[1]["parameters"] + 2 * 16
    assert "| seasonal naive | 0 |" in capsys.readouterr().out
    gap = write(tmp_path / "gap.jsonl", [*rows(60), *rows(100, start=61)])
    refused = stopped(*argv[2:], "--files", gap, main=benchmark.main, output="--output")
    assert "lack values, and transformers' PatchTST has no mask of the future." in refused
