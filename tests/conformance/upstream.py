"""The test mixins of the installed transformers, taken from its source distribution.

`python tests/conformance/upstream.py` downloads that archive with pip and unpacks its `tests/*.py` as the package
`transformers_tests` below `.cache/conformance/<version>/`. The archive leaves out modules that these files import:
`stubs/` stands in for them, so that the tests of generation and of exporters are not run. A checkout of transformers'
repository has them: `TRANSFORMERS_TESTS=FOLDER`, its `tests` folder, adds them. Nothing of either is committed.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType


HERE = Path(__file__).resolve().parent
VERSION = version("transformers")
CHECKOUT = os.environ.get("TRANSFORMERS_TESTS")  # the tests folder of a checkout, which holds more than the archive
CACHE = HERE.parents[1] / ".cache" / "conformance" / (f"{VERSION}-checkout" if CHECKOUT else VERSION)
PACKAGE = CACHE / "transformers_tests"
FROM_CHECKOUT = ("generation/test_utils.py", "exporters/test_export.py")


def download() -> Path:
    """Return the unpacked package, after downloading it when it is not there yet."""
    if not PACKAGE.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder]
            subprocess.run([*pip, "--no-deps", "--no-binary", "transformers", f"transformers=={VERSION}"], check=True)
            with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
                sources = read_tests(archive)
        PACKAGE.mkdir(parents=True)
        for name, source in {**sources, "__init__.py": b""}.items():
            (PACKAGE / name).write_bytes(source)
    shutil.copytree(HERE / "stubs", PACKAGE, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    if CHECKOUT:
        copy_tests(Path(CHECKOUT))
    return PACKAGE


def copy_tests(folder: Path) -> None:
    """Put the modules of a checkout that the archive lacks into the package, in place of the stubs.

    Raises:
        FileNotFoundError: When one of them is not there.
    """
    for name in FROM_CHECKOUT:
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"TRANSFORMERS_TESTS={folder} has no {name}: give the tests folder of a checkout")
        source = path.read_text(encoding="utf-8").replace("from tests.", "from transformers_tests.")
        (PACKAGE / name).write_text(source, encoding="utf-8")


def read_tests(archive: tarfile.TarFile) -> dict[str, bytes]:
    """The files `tests/*.py` of a source distribution, by name."""
    sources = {}
    for member in archive:
        path = Path(member.name)
        if path.parts[1:-1] == ("tests",) and path.suffix == ".py" and member.isfile():
            sources[path.name] = archive.extractfile(member).read()  # pyright: ignore[reportOptionalMemberAccess] a file
    return sources


def load(name: str) -> ModuleType:
    """Import `transformers_tests.<name>`."""
    if not PACKAGE.is_dir():
        raise FileNotFoundError(f"{PACKAGE} is missing: run `make conformance`, which downloads it")
    if str(CACHE) not in sys.path:
        sys.path.insert(0, str(CACHE))
    return importlib.import_module(f"transformers_tests.{name}")


if __name__ == "__main__":
    print(f"The common tests of transformers {VERSION} are in {download()}")
