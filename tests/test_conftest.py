"""The fixtures that every test runs with do what they say."""

import multiprocessing

import pytest
import torch
from support import forks, tiers
from transformers.utils import logging


MAKERS = {
    "empty": lambda **options: torch.empty(2, 3, **options),
    "empty_like": lambda **options: torch.empty_like(torch.zeros(2, 3), **options),
    "new_empty": lambda **options: torch.zeros(1).new_empty((2, 3), **options),
}
FOUND = {}


@pytest.mark.parametrize("maker", MAKERS)
def test_uninitialised_floats_are_nan(maker):
    assert MAKERS[maker](dtype=torch.float64).isnan().all()


@pytest.mark.parametrize("maker", MAKERS)
def test_integers_can_be_made(maker):
    assert MAKERS[maker](dtype=torch.int64).shape == (2, 3)


@pytest.mark.parametrize("maker", ["empty", "empty_like"])
def test_the_meta_device_still_redirects(maker):
    with torch.device("meta"):
        assert MAKERS[maker]().is_meta


@pytest.mark.no_poison
def test_the_marker_restores_the_originals():
    assert type(torch.empty) is type(torch.zeros)


def test_parameters_that_need_a_gradient_can_be_made():
    assert torch.empty(2, requires_grad=True).isnan().all()


def test_initialised_layers_hold_no_nan():
    assert not any(parameter.isnan().any() for parameter in torch.nn.TransformerEncoderLayer(8, 2).parameters())


def test_compiled_code_can_make_tensors():
    @torch.compile(fullgraph=True, backend="eager")
    def fill(x):
        return torch.empty_like(x).copy_(x)

    x = torch.randn(3)
    assert torch.equal(fill(x), x)


def test_every_test_starts_from_the_same_seed():
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("turn", [1, 2])
def test_no_test_finds_the_logger_as_another_left_it(turn):
    """It propagates from the start where `CI` is set: what each turn finds is compared with what the first found."""
    logger = logging.get_logger("transformers")
    found = logger.level, logger.propagate
    assert FOUND.setdefault("logger", found) == found and logger.level != logging.log_levels["critical"]
    logger.setLevel(logging.log_levels["critical"])
    logger.propagate = not logger.propagate


def test_long_tests_and_those_with_many_cases_are_thorough(tmp_path, monkeypatch):
    monkeypatch.setattr(tiers, "FILE", tmp_path / "thorough.txt")
    many = {f"tests/a.py::many[{case}]": 0.25 for case in range(40)}
    tiers.write_thorough({"tests/a.py::long": 2.0, "tests/a.py::short": 0.4, "tests/b.py::short[1]": 0.1, **many})
    assert tiers.thorough_tests() == {"tests/a.py::long": 2.0, "tests/a.py::many": 10.0}


@pytest.mark.parametrize("name", tiers.thorough_tests())
def test_thorough_tests_exist(name):
    """A name that is no longer there would put its test, renamed, among the fast ones."""
    file, *_, function = name.split("::")
    assert f"def {function}(" in (tiers.FILE.parents[1] / file).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shared_numbers():
    return torch.rand(3)


@pytest.fixture(scope="module", params=["first", "second"])
def numbers_of_each(request):
    return torch.rand(3)


def test_what_tests_share_is_the_same_whichever_is_first(request, numbers_of_each):
    own = torch.rand(3)
    shared = request.getfixturevalue("shared_numbers")  # made now, or by another test
    assert own.equal(shared) and own.equal(numbers_of_each)


def test_a_fork_has_nothing_of_trine_whoever_started_the_server_before(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trine"])
    process = context.Process(target=print)
    process.start()
    process.join()
    result = forks.run(["-c", "import sys; print('trine' in sys.modules, 'transformers' in sys.modules)"], tmp_path)
    assert result.stdout == "False True\n", result.stderr
