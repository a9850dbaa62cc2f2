"""What every test runs with: a fixed seed, one thread, no network, and no meaning in uninitialised memory.

What a test does to the logger of transformers ends with it.
"""

import contextlib
import gc
import logging as standard_logging
import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the libraries are imported

import pytest
import torch
from support.tiers import Marker
from transformers.utils import logging


torch.set_num_threads(1)
# PyTorch caches, at their first use, the functions that a device context redirects. The cache must hold the originals,
# not the replacements below: otherwise models would no longer be made on the meta device.
with torch.device("meta"):
    torch.empty(0)


# A server configures logging anew, which closes all handlers there are; absl's, which tensorboard brings, would close
# the file that pytest keeps the output in.
with contextlib.suppress(ImportError):
    from absl.logging import PythonHandler

    PythonHandler.close = standard_logging.StreamHandler.close


def pytest_addoption(parser):
    parser.addoption("--measure-tiers", action="store_true", help="write tests/thorough.txt from what this run takes")


def pytest_configure(config):
    config.pluginmanager.register(Marker(config.option.measure_tiers), "trine-tiers")


@pytest.fixture(autouse=True, scope="module")
def collected() -> None:
    """Leave out of collections of garbage what is there for good: thousands of tests, and libraries.

    Trainer collects after each training, which would take a second.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries look at the end whether anything of theirs is left


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef) -> None:
    """Seed what makes a fixture for several tests, which is there before the first of them, whichever that is."""
    if fixturedef.scope != "function":
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def logger_settings():
    """Put transformers' level of messages back, and whether they reach the root logger, which `caplog` listens at."""
    logger = logging.get_logger("transformers")
    level, propagates = logger.level, logger.propagate
    yield
    logger.setLevel(level)
    logger.propagate = propagates


@pytest.fixture(autouse=True)
def poison(request, monkeypatch) -> None:
    """Fill what `torch.empty` and its relatives return with NaN, so that reading uninitialised memory shows.

    Turned off by the marker `no_poison`.
    """
    if request.node.get_closest_marker("no_poison"):
        return
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


def poisoned(make):
    """Return a function like `make` whose floating-point results hold NaN."""

    def make_poisoned(*args, **kwargs):
        tensor = make(*args, **kwargs)
        if tensor.is_floating_point() and not tensor.is_meta:
            with torch.no_grad():
                tensor.fill_(torch.nan)
        return tensor

    return make_poisoned
