"""Checks that any mechanism has to pass, one's own and Trine's alike, each with a name and a hint how to mend it."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .pytest_functions import mechanism_tests
    from .results import Check, Result
    from .suite import CHECKS, check_mechanism

__all__ = [
    "CHECKS",
    "Check",
    "Result",
    "check_mechanism",
    "mechanism_tests",
]

__getattr__, __dir__ = lazy_names(__name__)
