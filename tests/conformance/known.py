"""The tests that our models skip or fail although their peer passes, each with its reason.

A row is a pattern of test names, a condition on the case, and the reason. A test that a row names must not pass: a row
that is no longer needed makes the run fail, and so does a skip without a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch

from conformance.cases import Case


@dataclass(frozen=True)
class Known:
    """One exception: `test` is a shell pattern."""

    test: str
    applies: Callable[[Case], bool]
    reason: str


KNOWN: tuple[Known, ...] = ()


def reason_for(case: Case, test: str) -> str | None:
    """Return why `test` may skip or fail for `case`, or None."""
    if case.peer is None:
        return None
    return next((known.reason for known in KNOWN if fnmatch(test, known.test) and known.applies(case)), None)
