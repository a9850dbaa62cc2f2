"""Records from JSON lines, Parquet, CSV and data sets of Hugging Face; bad ones are counted, with their place."""

import csv
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


# Begins what `datasets.load_dataset` finds, on the Hub or in a folder: hf:NAME or hf:NAME:SPLIT.
HUB_PREFIX = "hf:"
SHOWN = 5


class BadRecords:
    """What is wrong with records that cannot be used: all are counted, and the first few are shown.

    Args:
        skip: Whether to go on without them. Otherwise `check` raises an error, after all have been counted.
    """

    def __init__(self, skip: bool = False):
        self.skip = skip
        self.count = 0
        self.shown: list[str] = []

    def add(self, source: str, number: int, reason: str) -> None:
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{source}, record {number}: {reason}")

    def check(self) -> None:
        """Reports what was counted, if anything: as a warning where bad records are skipped.

        Raises:
            ValueError: There are bad records, which are not to be skipped.
        """
        if not self.count:
            return
        more = f"\n  and {self.count - len(self.shown)} more" if self.count > len(self.shown) else ""
        message = f"{self.count} records cannot be used:\n  " + "\n  ".join(self.shown) + more
        if not self.skip:
            raise ValueError(f"{message}\nMend them, or leave them out with --skip_bad_records.")
        warnings.warn(f"{message}\nThey are left out.", stacklevel=2)


def iterate_records(
    sources: Iterable[str | Path], fields: Mapping[str, type | tuple[type, ...]], bad: BadRecords
) -> Iterator[dict[str, Any]]:
    """Yield the fields of each record of all sources, streaming: no source is held in memory.

    Args:
        sources: Files that end in one of `READERS`, folders of them (at any depth) or folders that
            `datasets.Dataset.save_to_disk` wrote, and `hf:NAME` or `hf:NAME:SPLIT` for `datasets.load_dataset`.
        fields: Names of the fields that a record must have, and their types.
        bad: Counts the records that are no records or lack a field. Call its `check` after the iteration.

    Raises:
        FileNotFoundError: A source does not exist, or a folder holds nothing that can be read.
        ValueError: A file of another kind.
    """
    for source, records in find_sources(sources):
        for number, record in records:
            if isinstance(record, str):
                bad.add(source, number, record)
            elif reason := wrong_field(record, fields):
                bad.add(source, number, reason)
            else:
                yield {name: record[name] for name in fields}


def wrong_field(record: Any, fields: Mapping[str, type | tuple[type, ...]]) -> str | None:
    """What is wrong with the first field that is, or None."""
    for name, type_ in fields.items():
        if name not in record:
            return f"the field '{name}' is missing from {sorted(map(str, record))}"
        if not isinstance(record[name], type_):
            return f"the field '{name}' holds a {type(record[name]).__name__}"
    return None


def find_sources(sources: Iterable[str | Path]) -> Iterator[tuple[str, Iterator[tuple[int, Any]]]]:
    """The name of each source, and its numbered records; a text in place of a record says why there is none."""
    if isinstance(sources, (str, Path)):
        raise TypeError(f"sources={str(sources)!r} is one source; pass a list.")
    for source in sources:
        if str(source).startswith(HUB_PREFIX):
            yield str(source), _read_hub(str(source).removeprefix(HUB_PREFIX))
            continue
        for file in find_files([source], READERS):
            yield f"'{file}'", (_read_saved if file.is_dir() else READERS[file.suffix.lower()])(file)


def find_files(paths: Iterable[str | Path], endings: Iterable[str]) -> list[Path]:
    """The files that `paths` name, in order and once each; a folder stands for its readable files, at any depth.

    A folder that `datasets.Dataset.save_to_disk` wrote stands for itself.

    Raises:
        TypeError: `paths` is one string.
        FileNotFoundError: A path does not exist, or a folder holds no readable file.
        ValueError: No path at all, or a file whose ending is not among `endings`.
    """
    if isinstance(paths, (str, Path)):
        raise TypeError(f"paths={str(paths)!r} is one path; pass a list of paths.")
    endings = list(endings)
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir() and not (path / "state.json").exists():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in endings and file.is_file())
            if not found:
                raise FileNotFoundError(f"The folder '{path}' holds no file that ends in one of {endings}.")
        elif not path.exists():
            raise FileNotFoundError(f"The file or folder '{path}' does not exist.")
        elif path.is_file() and path.suffix.lower() not in endings:
            raise ValueError(f"The file '{path}' does not end in one of {endings}.")
        else:
            found = [path]
        files.update(dict.fromkeys(found))
    if not files:
        raise ValueError("No files are named.")
    return list(files)


def _read_json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                record = record if isinstance(record, dict) else f"it is a {type(record).__name__}"
            except UnicodeDecodeError as error:
                record = f"it is not UTF-8 text: {error}"
            except json.JSONDecodeError as error:
                record = f"it is not JSON: {error}"
            yield number, record


def _read_csv(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        yield from enumerate(csv.DictReader(lines), 1)


def _read_parquet(file: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as parquet

    try:
        batches = parquet.ParquetFile(file).iter_batches(1024)
    except Exception as error:
        raise ValueError(f"The file '{file}' is not Parquet: {error}") from error
    yield from enumerate((record for batch in batches for record in batch.to_pylist()), 1)


def _read_saved(folder: Path) -> Iterator[tuple[int, Any]]:
    from datasets import load_from_disk

    yield from enumerate(load_from_disk(str(folder)), 1)


def _read_hub(name: str) -> Iterator[tuple[int, Any]]:
    from datasets import load_dataset

    name, _, split = name.partition(":")
    yield from enumerate(load_dataset(name, split=split or "train", streaming=True), 1)


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
