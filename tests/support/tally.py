"""Counts what became of the draws of the property tests, and lets a long run go on after a failure."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings


# `make fuzz` sets it. Then draws are random, more, and counted to the end; else they are the same in every run.
IS_LONG = bool(os.environ.get("TRINE_FUZZ"))


class Refused(Exception):
    """The draw was refused, as it should be, or as it may be."""


class Tally:
    """What became of each draw, by the name of the property."""

    def __init__(self):
        self.counts: dict[str, Counter] = {}
        self.failures: dict[str, list[str]] = {}

    def run(self, name: str, check: Callable[..., Any], *draw) -> None:
        """Checks one draw. A failure is raised at once in a short run, so that hypothesis finds its smallest form."""
        counts = self.counts.setdefault(name, Counter())
        counts["tried"] += 1
        try:
            check(*draw)
        except Refused:
            counts["refused"] += 1
        except Exception as error:
            counts["failed"] += 1
            if not IS_LONG:
                raise
            self.failures.setdefault(name, []).append(f"{type(error).__name__}: {error}\n    {draw}"[:3000])
        if IS_LONG and counts["tried"] % 100 == 0:
            print(f"\n{name}: {self.row(name)}", end="", flush=True)

    def row(self, name: str) -> str:
        return ", ".join(f"{self.counts[name][key]:,} {key}" for key in ("tried", "refused", "failed"))

    def close(self, name: str) -> None:
        """Fails if a draw of a long run has failed."""
        failures = self.failures.get(name, [])
        assert not failures, f"{len(failures)} draws failed:\n" + "\n".join(failures[:20])


TALLY = Tally()


def budget(short: int, long: int):
    """The settings of a test with this many draws in an ordinary run, and in a long one."""
    return settings(
        max_examples=long if IS_LONG else short,
        derandomize=not IS_LONG,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
