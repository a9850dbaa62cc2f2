"""Runs Trine beside its peers through other libraries, and writes the table of what works.

`--way package` (with transformers' own models) loads Trine's folders with `import trine`; `--way remote` loads them
with `trust_remote_code=True` in processes that cannot import trine. Each run leaves its part of the table beside the
other's, and writes docs/measurements/consumers.md when both are there.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from consumers.contenders import FOLDERS, WAY, WAYS
from consumers.report import Report, facts_of


ROOT = Path(__file__).parents[2]


class Blocked:
    """An import hook that knows no trine."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "trine":
            raise ModuleNotFoundError(f"{name} is blocked in this process", name=name)


def pytest_addoption(parser):
    parser.addoption("--way", choices=list(WAYS), default="package", help="how Trine's models are loaded")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "ignore")
    os.environ[WAY] = config.option.way
    if not hasattr(config, "workerinput"):
        config.stash[BORROWED] = tempfile.TemporaryDirectory()
        os.environ[FOLDERS] = config.stash[BORROWED].name
        make_folders(os.environ[FOLDERS])
        config.pluginmanager.register(Report(config), "consumers-report")
    if config.option.way == "remote":
        sys.meta_path.insert(0, Blocked())
    else:
        import trine  # noqa: F401 registers the models, as a user does


BORROWED = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_unconfigure(config):
    if BORROWED in config.stash:
        config.stash[BORROWED].cleanup()


def make_folders(root: str) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "consumers.folders", root]
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    made = subprocess.run(command, env=environment, capture_output=True, text=True)
    if made.returncode:
        pytest.exit(f"no models: {made.stderr}", returncode=pytest.ExitCode.INTERNAL_ERROR)


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        pairs = [(case, contender) for case in metafunc.module.CASES for contender in case.chosen]
        ids = [f"{case.name}-{contender}" for case, contender in pairs]
        metafunc.parametrize(("case", "contender"), pairs, ids=ids)


@pytest.fixture(autouse=True)
def poison() -> None:
    """Not here: the other libraries may do with uninitialised memory as they please."""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> None:
    """Some libraries write into the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if "case" in getattr(item, "funcargs", {}):
        report.consumer = facts_of(item)
    return report
