"""Facts of the request that is being answered: each task of the server's loop sees its own."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Asked:
    """A request, from its first byte on.

    Attributes:
        seed: Of its random numbers; None if it names none.
        prompt_tokens: Tokens of its prompt, texts or pairs.
        new_tokens: Tokens that were generated for it.
        cached_tokens: Tokens of its prompt that were not read again.
        cache: What the response cache had of it: "hit", "miss" or "partial"; None if it was not asked.
        began: When it came, by `time.perf_counter`.
    """

    seed: int | None = None
    prompt_tokens: int = 0
    new_tokens: int = 0
    cached_tokens: int = 0
    cache: str | None = None
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time since it came."""
        return time.perf_counter() - self.began


ASKED: ContextVar[Asked] = ContextVar("asked")


def current() -> Asked:
    """The request that this task answers, or a new one where none has come through the server."""
    asked = ASKED.get(None)
    if asked is None:
        ASKED.set(asked := Asked())
    return asked
