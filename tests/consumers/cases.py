"""What a case is, and how it is judged."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from consumers.contenders import CONTENDERS, TRINE, WAY, WAYS, Contender


REFUSALS = (ValueError, TypeError, NotImplementedError, OSError)


@dataclass(frozen=True)
class Case:
    """One row of the table: what a user does with a library, done alike to every contender.

    `run` takes a contender and an empty folder, and raises unless what `works` says holds. Deviations are written
    down, and are strict: a refusal that no longer comes fails the run, and so does a failure that no longer does.
    """

    name: str
    run: Callable[[Contender, Path], None]
    works: str  # what the check holds
    contenders: tuple[str, ...]
    special: str = ""  # what a user of Trine does beside what a user of the peer does
    remote_step: str = ""  # and what beside that as remote code
    refused: dict[str, str] = field(default_factory=dict)  # contender to a pattern of the message
    refusal: str = ""  # why, in a sentence
    fails: tuple[str, ...] = ()  # contenders for which it does not work
    reason: str = ""  # why, in a sentence
    ways: tuple[str, ...] = tuple(WAYS)  # how Trine is loaded

    def __post_init__(self):
        alone = [name for name in self.fails if name in TRINE and TRINE[name].peer not in self.fails]
        assert not alone, f"{self.name}: {alone} may not fail where the peer works"
        assert bool(self.refused) == bool(self.refusal) and bool(self.fails) == bool(self.reason), self.name

    @property
    def chosen(self) -> list[Contender]:
        """The contenders of this run: as remote code, the peers have been through it already."""
        if os.environ[WAY] not in self.ways:
            return []
        everyone = [CONTENDERS[name] for name in self.contenders]
        return everyone if os.environ[WAY] == "package" else [one for one in everyone if one.is_trine]

    def expected(self, contender: Contender) -> str:
        """The outcome that the table shows."""
        if contender.name in self.fails:
            return "does not work"
        if contender.name in self.refused:
            return "refused"
        steps = self.special or (self.remote_step if os.environ[WAY] == "remote" else "")
        return "special step" if steps and contender.is_trine else "works"

    def check(self, contender: Contender, folder: Path) -> None:
        expected = self.expected(contender)
        if expected == "does not work":
            with pytest.raises(Exception):  # noqa: B017 any: the reason is a sentence of the table
                self.run(contender, folder)
        elif expected == "refused":
            with pytest.raises(REFUSALS, match=self.refused[contender.name]):
                self.run(contender, folder)
        else:
            self.run(contender, folder)
