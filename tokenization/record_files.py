"""Reading records from files: JSON, JSON lines, CSV, each also compressed, and Parquet."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..configuration.patterns import named_type


# A record with its number in the source, or in place of the record a text that says why there is none.
Numbered = Iterator[tuple[int, Any]]
_BOM = b"\xef\xbb\xbf"


def ending_of(file: Path) -> str:
    """The ending of a file that tells its format: ".jsonl", and of compressed files ".jsonl.gz"."""
    return "".join(file.suffixes[-2:] if file.suffix.lower() == ".gz" else [file.suffix]).lower()


def read_records(file: Path) -> Numbered:
    """The records of a file that ends in one of `READERS`.

    Raises:
        ValueError: The file as a whole cannot be read: another encoding, an unclosed quote, damaged or cut off.
    """
    try:
        yield from READERS[ending_of(file)](file)
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(file)) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"The file '{file}' is damaged or cut off: {error}") from error


def open_bytes(file: Path) -> Any:
    """Opens a file for reading bytes, decompressed where it ends in ".gz"."""
    return gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb")


def not_utf8(file: Path) -> str:
    """The message about a file of another encoding, with the first line that is not UTF-8."""
    with open_bytes(file) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                place = f"line {number} has the byte 0x{line[error.start]:02x} at place {error.start + 1}"
                return f"The file '{file}' is not UTF-8 text: {place}. Save it as UTF-8."
    return f"The file '{file}' is not UTF-8 text."


def _read_json_lines(file: Path) -> Numbered:
    with open_bytes(file) as lines:
        for number, line in enumerate(lines, 1):
            if number == 1 and b"\0" in line:
                raise ValueError(f"The file '{file}' is not UTF-8 text, but UTF-16 or binary. Save it as UTF-8.")
            if not line.isspace():
                yield number, _parse(line.removeprefix(_BOM) if number == 1 else line)


def _read_json(file: Path) -> Numbered:
    """A list of records, which is held in memory, or one record, or one a line."""
    with open_bytes(file) as stream:
        first = stream.readline().removeprefix(_BOM)
        whole = first.lstrip()[:1] == b"[" or isinstance(_parse(first), str)
        data = _parse(first + stream.read(), (dict, list)) if whole else None
    if data is None:
        yield from _read_json_lines(file)
    elif isinstance(data, str):
        raise ValueError(f"The file '{file}' holds neither a list of records nor one record a line: {data}.")
    else:
        for number, record in enumerate(data if isinstance(data, list) else [data], 1):
            yield number, record if isinstance(record, dict) else f"it is {named_type(record)}"


def _parse(text: bytes, types: tuple[type, ...] = (dict,)) -> Any:
    """Parses a JSON text; returns a string with the reason where that is no record."""
    try:
        value = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 text: {error}"
    except RecursionError:
        return "it is nested too deeply"
    except ValueError as error:  # a number of too many digits is no JSONDecodeError
        return f"it is not JSON: {error}"
    return value if isinstance(value, types) else f"it is {named_type(value)}"


def _read_csv(file: Path) -> Numbered:
    csv.field_size_limit(2**31 - 1)  # else 131,072 characters
    with io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig", newline="") as lines:
        reader, number = csv.DictReader(lines, strict=True), 0
        while True:
            first, number = reader.reader.line_num + 1, number + 1
            try:
                record: Any = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise ValueError(
                        f"The file '{file}', line {first}: a quote is opened and never closed."
                    ) from error
                record = f"it is not CSV, from line {first} on: {error}"
            yield number, record


def _read_parquet(file: Path) -> Numbered:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ValueError(f"The file '{file}' needs pyarrow: pip install 'trine[scripts]'.") from error
    try:
        batches = parquet.ParquetFile(file).iter_batches(1024)
        yield from enumerate((record for batch in batches for record in batch.to_pylist()), 1)
    except Exception as error:
        raise ValueError(f"The file '{file}' is not Parquet: {error}") from error


READERS: dict[str, Callable[[Path], Numbered]] = {
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".jsonl.gz": _read_json_lines,
    ".csv.gz": _read_csv,
    ".json": _read_json,
    ".json.gz": _read_json,
}
# Not read in folders, where such files mostly hold settings: they are to be named.
BY_NAME_ONLY = (".json", ".json.gz")
