"""Which tests `make check` leaves out: those of `tests/thorough.txt`, which were the longest when last measured.

`make tiers` runs all tests and writes that file: a line for each test function, with the seconds of one core that its
cases took together, children included. These tests get the marker `thorough`.
"""

import os
from collections import defaultdict
from pathlib import Path

import pytest
from support import forks


FILE = Path(__file__).parents[1] / "thorough.txt"
LONGEST_CASE, LONGEST_TEST = 0.5, 3.0  # seconds of one core


def function_of(nodeid: str) -> str:
    """The test function of a case, which is what stands before its parameters."""
    return nodeid.partition("[")[0]


def thorough_tests() -> dict[str, float]:
    lines = [line.split(maxsplit=1) for line in FILE.read_text(encoding="utf-8").splitlines()]
    return {name: float(seconds) for seconds, name in lines}


def write_thorough(seconds: dict[str, float]) -> None:
    """Write down the functions with a long case, or with many short ones, from the seconds of every case."""
    cases = defaultdict(list)
    for nodeid, value in seconds.items():
        cases[function_of(nodeid)].append(value)
    chosen = {name: sum(v) for name, v in cases.items() if max(v) > LONGEST_CASE or sum(v) > LONGEST_TEST}
    FILE.write_text("".join(f"{total:.1f} {name}\n" for name, total in sorted(chosen.items())), encoding="utf-8")


def cpu_seconds() -> float:
    """Of this process and those that it has waited for, forks too: another program's load does not count."""
    return sum(os.times()[:4]) + sum(forks.SECONDS)


class Marker:
    """Marks thorough tests, and measures all of them where that is asked for."""

    def __init__(self, is_measured: bool):
        self.is_measured, self.names, self.seconds = is_measured, thorough_tests().keys(), {}

    @pytest.hookimpl(tryfirst=True)  # before pytest deselects by mark
    def pytest_collection_modifyitems(self, items):
        for item in items:
            if function_of(item.nodeid) in self.names or item.get_closest_marker("slow"):
                item.add_marker("thorough")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        item.started = cpu_seconds()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item):
        try:
            return (yield)
        finally:
            item.user_properties.append(("cpu_seconds", cpu_seconds() - item.started))

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":  # under xdist this runs in the process that has the reports of all
            self.seconds[report.nodeid] = dict(report.user_properties)["cpu_seconds"]

    def pytest_sessionfinish(self, session):
        if self.is_measured and not hasattr(session.config, "workerinput"):
            write_thorough(self.seconds)
