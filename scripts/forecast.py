"""Forecast what follows series, with a model that `trine train-series` trained."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers import AutoModelForTimeSeriesPrediction

from trine.scripts.arguments.parsing import RECORDS_HELP, parse_arguments
from trine.scripts.jobs.forecasts import draw_forecast, forecast, levels_of
from trine.scripts.jobs.job import bad_input_ends
from trine.scripts.jobs.series_files import following_times, read_series
from trine.scripts.train_series import FIELDS
from trine.tokenization.records import BadRecords


@dataclass
class ForecastArguments:
    """Options of `trine forecast`."""

    model: str = field(metadata={"help": "Folder or Hub id of a model of series."})
    files: list[str] = field(metadata={"help": f"{RECORDS_HELP} A record is a step; the last ones are read."})
    output: str | None = field(
        default=None, metadata={"help": "File that gets the forecasts: .jsonl or .csv. By default they are printed."}
    )
    picture: str | None = field(default=None, metadata={"help": "PNG that gets a picture of the first series."})
    time_field: str | None = field(default=None, metadata={"help": "As in training, which is the default."})
    value_fields: list[str] = field(default_factory=list, metadata={"help": "As in training, which is the default."})
    series_field: str | None = field(default=None, metadata={"help": "As in training, which is the default."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code that a checkpoint from the Hub brings. Trine's needs none."}
    )

    def __post_init__(self):
        if self.output is not None and Path(self.output).suffix not in WRITERS:
            raise ValueError(f"output='{self.output}' must end in one of {[*WRITERS]}.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine forecast` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([ForecastArguments], argv, command="forecast", description=__doc__)
    with bad_input_ends():
        options = {"trust_remote_code": arguments.trust_remote_code}
        model = AutoModelForTimeSeriesPrediction.from_pretrained(arguments.model, **options)
        trained = Path(arguments.model) / FIELDS
        known = json.loads(trained.read_text(encoding="utf-8")) if trained.is_file() else {}
        names = [
            getattr(arguments, name) or known.get(name) for name in ("time_field", "value_fields", "series_field")
        ]
        bad = BadRecords()
        series, fields = read_series(arguments.files, names[0], names[1] or [], names[2], bad)
        bad.check()
        if len(fields) != model.config.num_input_channels:
            raise ValueError(
                f"value_fields={fields} are {len(fields)}, but model='{arguments.model}' reads num_input_channels="
                f"{model.config.num_input_channels}."
            )
        forecasts = [forecast(model, each) for each in series]
        rows = [
            row
            for each, predicted in zip(series, forecasts, strict=True)
            for row in rows_of(each, predicted, fields, names, levels_of(model.config))
        ]
        WRITERS[Path(arguments.output).suffix if arguments.output else ".jsonl"](rows, arguments.output)
        if arguments.picture:
            draw_forecast(series[0].values[-2 * len(forecasts[0]) :], forecasts[0], fields, Path(arguments.picture))
    return 0


def rows_of(
    series: Any, predicted: Any, fields: Sequence[str], names: Sequence[Any], levels: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """A record for each step: time, series, a value for each field, and `FIELD_q0.1`, ..., its quantiles."""
    times = following_times(series.times, len(predicted))
    for time, values in zip(times, predicted, strict=True):
        row: dict[str, Any] = {names[0] or "step": time.isoformat() if isinstance(time, datetime) else time}
        if names[2]:
            row[names[2]] = series.name
        for name, value in zip(fields, values, strict=True):
            row[name] = float(value[len(value) // 2])
            row |= {f"{name}_q{level:g}": float(each) for level, each in zip(levels, value, strict=False)}
        yield row


def write_lines(rows: Sequence[dict[str, Any]], path: str | None) -> None:
    """Writes JSON lines to a file, or prints them."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path is None:
        print(text, end="")
    else:
        Path(path).write_text(text, encoding="utf-8")


def write_table(rows: Sequence[dict[str, Any]], path: str | None) -> None:
    """Writes a CSV file with a header."""
    with Path(str(path)).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)


WRITERS = {".jsonl": write_lines, ".csv": write_table}


if __name__ == "__main__":
    sys.exit(main())
