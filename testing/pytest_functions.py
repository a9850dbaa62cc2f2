"""The suite as tests of pytest."""

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from .subjects import Subject, find_subjects, is_file
from .suite import choose, run_check


def mechanism_tests(
    what: Any,
    *,
    oracle: Callable[..., Any] | None = None,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    **fields: Any,
) -> Any:
    """A test function that runs the suite, one test for each check.

    Args:
        what: A registered class, its name, or `FILE.py:CLASS`, where a relative path begins at the file that calls.
        oracle: See `Subject`.
        only: Names of checks; by default all that apply.
        skip: Names of checks that are left out.
        fields: Config fields of the models that are made.

    Returns:
        A function to be bound to a name that begins with `test`.

    Raises:
        ValueError: There is no such mechanism, or no such check.

    Example:
        >>> from trine.testing import mechanism_tests
        >>> test_full_attention = mechanism_tests("full")
    """
    import pytest

    if isinstance(what, str) and is_file(what):
        what = str(Path(sys._getframe(1).f_globals.get("__file__", "")).parent / what)
    subjects = [what] if isinstance(what, Subject) else find_subjects(what, oracle, **fields)
    cases = [
        pytest.param(subject, check, id=f"{subject.name}-{check.name}")
        for subject in subjects
        for check in choose(subject, only, skip)
    ]

    @pytest.mark.parametrize(("subject", "check"), cases)
    def test(subject: Any, check: Any) -> None:
        result = run_check(check, subject)
        if result.passed is None:
            pytest.skip(result.detail)
        if not result.passed:
            pytest.fail(f"{subject.name}, {check.name}: {result.detail}\n{result.hint}", pytrace=False)

    return test
