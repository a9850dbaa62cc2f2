"""`trine benchmark gpu`: rehearsed without a GPU, its budget of time, its failures, and its parts of the page."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import numpy
import pytest
import torch
from packaging.version import Version

from trine.scripts.benchmarks import gpu
from trine.scripts.benchmarks.gpu import PARTS, REHEARSAL, GpuArguments, Part, Run
from trine.scripts.benchmarks.gpu_checks import relative_error
from trine.scripts.benchmarks.gpu_setting import Setting, attempt
from trine.scripts.benchmarks.gpu_simplicial import FLEX, SHAPES, make_states, pairs_of, speed
from trine.scripts.reports.processes import stream


# A row that each part prints in a rehearsal; others come before it.
REHEARSED = {
    "checks": "decode | float32 | 1 of 1 | ",
    "simplicial": f"second 4 | {FLEX} | ",
    "training": "Llama | training, 1 x 16 tokens, compiled | ",
    "decoding": "Llama | decoding, static cache, batch 1, 3 tokens | ",
    "states": "linear | 32 | ",
    "experts": "grouped_mm | ",
}


def test_everything_is_rehearsed_without_a_gpu(tmp_path):
    """All jobs, as on a GPU, but in small; the page stays as it is."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    if Version(triton.__version__) < Version("3.7") and Version(numpy.__version__) >= Version("2.4"):
        pytest.skip("the interpreter of Triton before 3.7 loops over no range with NumPy 2.4")
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    command = [sys.executable, "-m", "trine.scripts.cli", "benchmark", "gpu", "--dry", "--report", str(page)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    assert run.stdout.startswith(REHEARSAL) and run.stdout.endswith(f"{REHEARSAL}\n")
    assert "**" not in run.stdout and "left out" not in run.stdout
    parts = [run.stdout.index(part.heading) for part in PARTS.values()]
    assert parts == sorted(parts) and REHEARSED.keys() == PARTS.keys()
    for name, row in REHEARSED.items():
        assert row in run.stdout[run.stdout.index(PARTS[name].heading) :], name
    assert page.read_text() == "# Page\n"


def count(setting: Setting, *names: str) -> Iterator[list[str]]:
    """A row for each name, or what the name says."""
    for name in names:
        if name == "raise":
            raise ValueError("the | cause\nand more")
        if name == "exit":
            os._exit(3)
        if name == "hang":
            time.sleep(60)
        yield [name, "1", "2"]


@pytest.mark.parametrize(
    ("last", "seconds", "error", "message"),
    [
        ("raise", 30, RuntimeError, r"^ValueError: the \| cause$"),
        ("exit", 30, RuntimeError, "^its process ended with exit status 3$"),
        ("hang", 2, TimeoutError, "^stopped after 2 s$"),
    ],
)
def test_what_came_before_a_failure_is_kept(last, seconds, error, message):
    rows = stream(count, Setting(True), "a", "b", last, "c", seconds=seconds, method="fork")
    assert [next(rows), next(rows)] == [["a", "1", "2"], ["b", "1", "2"]]
    with pytest.raises(error, match=message):
        next(rows)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Makes a run that takes itself for one on a GPU, and writes to a page."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")

    def make(minutes: float = 1) -> Run:
        run = Run(GpuArguments(minutes=minutes, report=str(tmp_path / "page.md")), "the command")
        run.setting, run.method = Setting(False), "fork"
        return run

    return make


def part(**jobs: tuple[str, ...]) -> Part:
    return Part(
        "counting", "A note.", ("name", "x", "y", "z"), lambda _: {n: (count, *j) for n, j in jobs.items()}, 30
    )


def test_a_part_is_written_after_each_job(start, monkeypatch):
    run, pages = start(), []
    monkeypatch.setattr(gpu, "write_part", lambda path, text: pages.append(text))
    run.run_part(part(first=("a", "b"), second=("c", "raise", "d"), third=("e",)))
    rows = ["| a | 1 | 2 |  |", "| b | 1 | 2 |  |"]
    rows += ["| c | 1 | 2 |  |", "| second | **failed**: ValueError: the / cause |  |  |", "| e | 1 | 2 |  |"]
    tables = [page.partition("|---|---|---|---|\n")[2].splitlines() for page in pages]
    assert tables == [rows[:2], rows[:4], rows]
    begin = "## On a GPU: counting\n\nMade on "
    assert pages[0].startswith(begin) and "by `the command`: A GPU, bfloat16, torch " in pages[0]
    assert "A note.\n\n| name | x | y | z |\n" in pages[0] and run.failures == 1


def test_what_has_no_time_is_named_and_replaces_nothing(start):
    late = start(minutes=0.01)
    late.run_part(part(first=("a",)))
    assert "| first | left out: no time was left |  |  |" in late.page.read_text()
    start().run_part(part(first=("a",)))
    measured = late.page.read_text()
    assert "left out" not in measured and "| a | 1 | 2 |  |" in measured
    late.run_part(part(first=("a",)))
    assert late.page.read_text() == measured


def test_a_rehearsal_writes_no_page(start):
    run = start()
    run.setting = Setting(True)
    run.run_part(part(first=("a",)))
    assert not run.page.exists()


def test_processes_begin_anew_where_copies_cannot_use_the_gpu(start, monkeypatch, capsys):
    run = start()
    run.try_forks()  # there is no GPU here, or a fork cannot use it
    assert run.method == "spawn" and "Each job imports everything anew" in capsys.readouterr().out
    run.setting, run.method = Setting(True), "fork"
    run.try_forks()
    assert run.method == "fork"


def fail(error: Exception) -> list[str]:
    raise error


def test_a_figure_that_fails_costs_no_other():
    assert attempt(lambda: ["1", "2"]) == ["1", "2"]
    assert attempt(partial(fail, torch.OutOfMemoryError("so much"))) == ["out of memory"]
    assert attempt(partial(fail, KeyError("a|b"))) == ["**failed**: KeyError: 'a/b'"]
    with pytest.raises(RuntimeError, match="CUDA error"):  # nothing runs after it
        attempt(partial(fail, RuntimeError("CUDA error: an illegal memory access")))


def test_sdpa_weighs_as_many_pairs():
    for shape in SHAPES:
        query, key, _ = make_states(shape._replace(head_dim=1), 3, Setting(True))
        assert query.shape[:2] == (shape.batch, shape.heads) and key.shape[1] == shape.key_heads
        assert query.shape[2] * (query.shape[2] + 1) / 2 == pytest.approx(pairs_of(shape), rel=1e-3)


def test_operations_are_those_of_pairs_that_are_seen():
    shape = SHAPES[0]._replace(batch=2, heads=3, key_heads=1, length=4, head_dim=5, first=2, second=8)
    pairs = 1 * 1 + 2 * 2 + 2 * 3 + 2 * 4
    operations = 4 * 2 * 3 * 5 * pairs
    assert speed(4, operations / 1e12 / 7, shape) == (f"{operations / 1e9 / 7:.2f}", "7")


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [([3.0, 4.0], [3.0, 4.5], 0.5 / 29.25**0.5), ([0.0, 0.25], [0.0, 0.0], 0.25)],
)
def test_relative_errors(actual, expected, error):
    assert relative_error(torch.tensor(actual), torch.tensor(expected).double()) == pytest.approx(error)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"minutes": 0}, "minutes=0 must be positive"),
        ({"parts": ["check"]}, r"parts=\['check'\] are not among \['checks', "),
    ],
)
def test_bad_arguments_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        GpuArguments(**fields)
