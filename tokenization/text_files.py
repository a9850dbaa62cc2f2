"""Documents from text files: what tokenizers and models are trained on."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


def find_text_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files that `paths` name, in order and once each; a folder stands for its readable files, at any depth.

    Raises:
        TypeError: `paths` is one string.
        FileNotFoundError: a path does not exist, or a folder holds no readable file.
        ValueError: no path at all, or a file whose ending is not in `READERS`.
    """
    if isinstance(paths, (str, Path)):
        raise TypeError(f"paths={str(paths)!r} is one path; pass a list of paths.")
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in READERS and file.is_file())
            if not found:
                raise FileNotFoundError(f"The folder '{path}' holds no file that ends in one of {list(READERS)}.")
        elif not path.exists():
            raise FileNotFoundError(f"The file or folder '{path}' does not exist.")
        elif path.suffix.lower() not in READERS:
            raise ValueError(f"The file '{path}' does not end in one of {list(READERS)}.")
        else:
            found = [path]
        files.update(dict.fromkeys(found))
    if not files:
        raise ValueError("No text files are named.")
    return list(files)


def iterate_text_files(paths: Iterable[str | Path], text_field: str = "text") -> Iterator[str]:
    """Yield the documents of text files and folders: a plain text file is one, a JSON-lines file one per line.

    Documents of white space only are left out. `text_field` names the string of a JSON line.

    Raises:
        ValueError: a file is not UTF-8, or a JSON line is not an object with a string called `text_field`; besides
            the errors of `find_text_files`.
    """
    for file in find_text_files(paths):
        try:
            yield from (text for text in READERS[file.suffix.lower()](file, text_field) if not text.isspace() and text)
        except UnicodeDecodeError as error:
            raise ValueError(f"The file '{file}' is not UTF-8 text: {error}.") from error


def _read_plain(file: Path, text_field: str) -> Iterator[str]:
    yield file.read_text(encoding="utf-8-sig")


def _read_json_lines(file: Path, text_field: str) -> Iterator[str]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"Line {number} of '{file}' is not JSON: {error}.") from error
            if not isinstance(record, dict) or not isinstance(record.get(text_field), str):
                fields = sorted(record) if isinstance(record, dict) else f"a {type(record).__name__}"
                raise ValueError(
                    f"Line {number} of '{file}' has no string in text_field='{text_field}': it has {fields}."
                )
            yield record[text_field]


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _read_plain,
    ".md": _read_plain,
    ".rst": _read_plain,
    ".jsonl": _read_json_lines,
}
