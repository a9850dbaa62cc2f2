"""Check a mechanism: gradients, causality, padding, packing, caches, half precision, compilation, sharing and more."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.arguments.pretraining import parse_overrides
from trine.testing import CHECKS, Result, check_mechanism
from trine.testing.results import describe_error
from trine.testing.subjects import Subject, find_subjects


MARKS = {True: "passed", False: "FAILED", None: "-"}
CLEAR = "\r\033[K"


@dataclass
class CheckArguments:
    """Options of `trine check`."""

    what: str = field(
        metadata={
            "help": "FILE.py:CLASS; FILE.py, for all that it registers; or the name of a kind, Trine's own too. "
            "It may stand first, without its name."
        }
    )
    only: list[str] = field(
        default_factory=list,
        metadata={"help": f"The checks that are run: {', '.join(check.name for check in CHECKS)}. By default all."},
    )
    skip: list[str] = field(default_factory=list, metadata={"help": "Checks that are left out."})
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of TrineConfig as key=value, for a mechanism that needs other ones than small models have."
        },
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine check` with these arguments, by default the process's; return 1 if a check fails."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--what", *argv]
    (arguments,) = parse_arguments([CheckArguments], argv, command="check", description=__doc__)
    try:
        overrides = parse_overrides(arguments.config_overrides) if arguments.config_overrides else {}
        subjects = find_subjects(arguments.what, **overrides)
        rows = [row for subject in subjects for row in report(subject, arguments.only, arguments.skip)]
    except (*INPUT_ERRORS, ImportError) as error:
        sys.exit(f"trine check: {error}")
    except SyntaxError as error:
        sys.exit(f"trine check: {error.filename}:{error.lineno}: {error.msg}")
    except Exception as error:  # whatever the file raises when it is loaded
        sys.exit(f"trine check: {describe_error(error, str(Path(arguments.what.partition(':')[0]).resolve()))}")
    return 1 if any(row.passed is False for row in rows) else 0


def report(subject: Subject, only: Sequence[str], skip: Sequence[str]) -> list[Result]:
    """Checks one mechanism, and prints a table of what was found."""
    start, shows = time.perf_counter(), sys.stderr.isatty()

    def progress(name: str) -> None:
        if shows:
            print(f"{CLEAR}{subject.name}: {name} ...", end="", file=sys.stderr, flush=True)

    rows = check_mechanism(subject, only=only, skip=skip, progress=progress)
    if shows:
        print(CLEAR, end="", file=sys.stderr, flush=True)
    print(f"{subject.name} ({subject.field})")
    print("\n".join(line for row in rows for line in lines_of(row)))
    failed = sum(row.passed is False for row in rows)
    passed = sum(row.passed is True for row in rows)
    print(f"{failed} failed, {passed} passed, in {time.perf_counter() - start:.0f} s")
    return rows


def lines_of(row: Result) -> list[str]:
    """A row of the table, and below it the hint where it failed."""
    line = f"  {MARKS[row.passed]:6}  {row.name:15} {row.detail}".rstrip()
    return [line, f"  {'':6}  {'':15} {row.hint}"] if row.hint else [line]


if __name__ == "__main__":
    sys.exit(main())
