"""Pictures and sounds with their labels, from folders of classes and from records that name files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trine.tokenization.records import BadRecords, read_examples
from trine.training.data.pictures import PictureSource


ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
ENCODED = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tiff")  # what sentence-transformers takes for pictures


class Picture(NamedTuple):
    """A picture or a sound that is not read yet, with its label."""

    source: PictureSource
    label: Any


def read_pictures(
    files: Sequence[str], image_field: str, label_field: str, bad: BadRecords, endings: Sequence[str] = ENDINGS
) -> list[Picture]:
    """The pictures of all sources: a folder of classes, each a folder of files, or records with a field for the image.

    The field holds a path, seen from the folder of the file of records, or what `datasets` makes of a picture. Sounds
    are read likewise, with `endings` of theirs.

    Raises:
        OSError: A source does not exist, or a file of records cannot be read.
        ValueError: A folder holds neither records nor folders of pictures.
    """
    found: list[Picture] = []
    for name in files:
        folder = Path(name)
        classes = folders_of_classes(folder, endings)
        if classes:
            found += [Picture(file, label) for label, members in classes.items() for file in members]
            continue
        base = folder if folder.is_dir() else folder.parent

        def read(record: Mapping[str, Any], base: Path = base) -> Picture:
            source = record[image_field]
            if isinstance(source, str):
                source = base / source
                if not source.is_file():
                    raise ValueError(f"the field '{image_field}' names '{source}', which is no file")
            label = record[label_field]
            if not isinstance(label, str | int) or isinstance(label, bool):
                raise ValueError(f"the field '{label_field}' holds a {type(label).__name__}")
            return Picture(source, label)

        found += read_examples([name], {image_field: object, label_field: object}, read, bad)
    return found


def picture_path(file: str, field: str, name: str) -> str:
    """The path of a picture that a record names, seen from the folder of its file, by which models read it.

    Raises:
        ValueError: It is no picture that is there.
    """
    from PIL import Image

    path = (Path(file) if Path(file).is_dir() else Path(file).parent) / name
    if not path.is_file() or path.suffix.lower() not in ENCODED:
        raise ValueError(f"the field '{field}' names '{path}', which is no file that ends with one of {[*ENCODED]}")
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the field '{field}' names '{path}', which cannot be read: {error}") from error
    return str(path)


def folders_of_classes(folder: Path, endings: Sequence[str] = ENDINGS) -> dict[str, list[Path]]:
    """The files with these endings in each sub-folder, by its name; empty where there are none."""
    if not folder.is_dir():
        return {}
    members = {
        each.name: sorted(file for file in each.rglob("*") if file.suffix.lower() in endings)
        for each in sorted(folder.iterdir())
        if each.is_dir()
    }
    is_records = any(file.suffix in (".jsonl", ".json", ".csv", ".parquet", ".arrow") for file in folder.iterdir())
    return {} if is_records else {name: files for name, files in members.items() if files}
