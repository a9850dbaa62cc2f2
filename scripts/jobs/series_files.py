"""Series from files of records: a record is a step, its fields are the values."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from trine.tokenization.records import BadRecords, find_sources
from trine.training.data.series import Series


MISSING = {"", "nan", "na", "null", "none"}
MOST_STEPS_ADDED = 10  # times as many as there are records


def read_series(
    files: Sequence[str],
    time_field: str | None,
    value_fields: Sequence[str],
    series_field: str | None,
    bad: BadRecords,
) -> tuple[list[Series], list[str]]:
    """The series of all files, and the fields that hold their values.

    With a time field, steps are sorted by it, and those that are left out between others are filled in as missing.

    Args:
        time_field: Dates as ISO 8601 has them, or numbers. Default: records are in order.
        value_fields: Default: all fields of the first record that hold numbers, but the other two.
        series_field: What a record belongs to. Default: all are of one series.
        bad: Counts records that lack a field or hold no number. Call its `check` afterwards.

    Raises:
        OSError: A file does not exist.
        ValueError: A file cannot be read, or times that come twice or are not evenly spaced.
    """
    rows: dict[str, list[tuple[Any, list[float]]]] = {}
    fields = [*value_fields]
    for source, records in find_sources(files, ()):
        for number, record in records:
            try:
                if not isinstance(record, Mapping):
                    raise ValueError(str(record))
                fields = fields or number_fields(record, {time_field, series_field})
                for name in filter(None, [time_field, series_field, *fields]):
                    if name not in record:
                        raise ValueError(f"the field '{name}' is missing from {sorted(map(str, record))}")
                time = None if time_field is None else read_time(record[time_field], time_field)
                group = "" if series_field is None else str(record[series_field])
                values = [read_number(record[name], name) for name in fields]
                rows.setdefault(group, []).append((time, values))
            except ValueError as error:
                bad.add(source, number, str(error))
    if not rows and not bad.count:
        raise ValueError(f"files={list(files)} hold no record.")
    return [make_series(name, group, time_field) for name, group in rows.items()], fields


def number_fields(record: Mapping[str, Any], others: set[str | None]) -> list[str]:
    """The fields of a record that hold numbers, perhaps as texts."""
    found = []
    for name, value in record.items():
        try:
            if name not in others and math.isfinite(read_number(value, name)):
                found.append(name)
        except ValueError:
            continue
    if not found:
        raise ValueError(f"none of the fields {sorted(map(str, record))} holds a number: name them by value_fields")
    return found


def read_number(value: Any, name: str) -> float:
    """A number, or NaN for a missing value: an empty text, None, NaN."""
    if value is None or isinstance(value, str) and value.strip().lower() in MISSING:
        return math.nan
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None or math.isinf(number):
        raise ValueError(f"the field '{name}' holds {value!r}, which is no number")
    return number


def read_time(value: Any, name: str) -> Any:
    """A date, or a number."""
    if isinstance(value, datetime):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        try:
            return datetime.fromisoformat(str(value))
        except ValueError as error:
            raise ValueError(f"the field '{name}' holds {value!r}, which is neither a date nor a number") from error
    if not math.isfinite(number):
        raise ValueError(f"the field '{name}' holds {value!r}, which is no time")
    return number


def make_series(name: str, rows: list[tuple[Any, list[float]]], time_field: str | None) -> Series:
    """One series of its records: sorted by time, with missing steps filled in.

    Raises:
        ValueError: Times of several kinds, twice the same, or not a whole number of steps apart.
    """
    values = np.array([row for _, row in rows], dtype=np.float64)
    if time_field is None:
        return Series(values, name)
    of = f" of series '{name}'" if name else ""
    try:
        order = sorted(range(len(rows)), key=lambda index: rows[index][0])
    except TypeError as error:
        raise ValueError(f"The field '{time_field}'{of} holds times that cannot be compared: {error}.") from error
    times, values = [rows[index][0] for index in order], values[order]
    if len(times) < 2:
        return Series(values, name, times)
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    usual = sorted(gaps)[len(gaps) // 2]
    for earlier, gap in zip(times, gaps, strict=False):
        steps = gap / usual if usual else 0
        if round(steps) < 1:
            raise ValueError(f"The field '{time_field}'{of} holds {earlier} twice, or nearly: a step has one record.")
        if abs(steps - round(steps)) > 0.25:
            raise ValueError(
                f"The field '{time_field}'{of} is not evenly spaced: after {earlier} come {gap}, but usually {usual}."
            )
    places = np.concatenate(([0], np.cumsum([round(gap / usual) for gap in gaps])))
    if places[-1] > MOST_STEPS_ADDED * len(rows):
        raise ValueError(f"The field '{time_field}'{of} leaves out {places[-1] + 1 - len(rows):,} steps.")
    filled = np.full((places[-1] + 1, values.shape[1]), np.nan)
    filled[places] = values
    known = dict(zip(places.tolist(), times, strict=True))
    named, last = [], times[0]
    for place in range(len(filled)):
        last = known.get(place, last if place == 0 else last + usual)
        named.append(last)
    return Series(filled, name, named)


def following_times(times: Sequence[Any] | None, count: int) -> list[Any]:
    """Names of the next steps: further dates or numbers, or counts from 1 on where there are no times."""
    if times is None or len(times) < 2:
        return [*range(1, count + 1)]
    gaps = sorted(later - earlier for earlier, later in zip(times, times[1:], strict=False))
    return [times[-1] + gaps[len(gaps) // 2] * (number + 1) for number in range(count)]
