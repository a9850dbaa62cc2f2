"""The wheel, built through the source distribution, holds the whole package and works without the checkout."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
MAKE_A_MODEL = """
import torch
import trine

model = trine.TrineForCausalLM(trine.TrineConfig.from_preset("tiny"))
model.save_pretrained("saved")
print(trine.__file__, trine.__version__, tuple(model(torch.zeros(1, 3, dtype=torch.long)).logits.shape[:2]))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Folder with the source distribution and the wheel, made offline by the setuptools that is installed."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def site(built, tmp_path_factory) -> Path:
    """A folder with the installed wheel alone."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*install, str(next(built.glob("*.whl")))], check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(built.glob("*.whl")))


def package_files() -> set[str]:
    """The files of the listed packages, as the wheel has to name them, whatever else is in the checkout."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    places = settings["package-dir"]
    folders = {name: ROOT.joinpath(places.get(name, ""), *name.split(".")[1:]) for name in settings["packages"]}
    code = [(name, path.name) for name, folder in folders.items() for path in folder.glob("*.py")]
    data = [
        (name, path.relative_to(folders[name]).as_posix())
        for name, globs in settings["package-data"].items()
        for each in globs
        for path in folders[name].glob(each)
    ]
    return {f"{name.replace('.', '/')}/{path}" for name, path in [*code, *data]}


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == package_files()


def test_there_are_recipes_in_the_wheel(wheel):
    assert any(name.startswith("trine/scripts/recipes/") for name in wheel.namelist())


def test_the_metadata_names_the_command_the_plugin_and_the_licence(wheel):
    info = next(name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "trine = trine_command:main" in entry_points
    assert "[vllm.general_plugins]\ntrine = trine:register" in entry_points
    assert "License-Expression: Apache-2.0" in wheel.read(f"{info}/METADATA").decode()
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_the_source_distribution_holds_the_package(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    files = {name.removeprefix("trine/").replace("trine_command/", "scripts/command/") for name in package_files()}
    assert files <= held
    code = {name for name in held if name.endswith(".py") and not name.startswith("tests/")}
    assert code <= files | {"setup.py"}, "the checkout's other folders are no part of it"


def test_the_installed_wheel_makes_and_saves_a_model(site, tmp_path):
    """In another folder, where neither the checkout nor its editable installation is what gets imported."""
    done = subprocess.run(
        [sys.executable, "-c", MAKE_A_MODEL],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{site}{os.sep}trine"), done.stdout
    assert done.stdout.rstrip().endswith("(1, 3)")
    assert (tmp_path / "saved" / "modeling_trine.py").is_file()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["benchmark"], ["list", "kinds"]])
def test_the_installed_command_answers(site, tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, str(site / "bin" / "trine"), *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout, done.stderr
