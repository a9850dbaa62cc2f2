"""Texts or pairs of several requests in one forward pass: what waits for a moment is computed together."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from threading import Event
from typing import Any

from trine.scripts.serving.errors import closing, queue_is_full
from trine.scripts.serving.limits import Limits
from trine.scripts.serving.metrics import Metrics
from trine.scripts.serving.streams import settle, tell


SLICE = 256  # items between two looks at whether anybody still waits for them


@dataclass(eq=False)
class Work:
    """A part of a request.

    Attributes:
        group: Items of one group are computed alike.
        items: Texts or pairs.
        lengths: Tokens of each.
        done: Gets the results, or the error, in the thread that computes.
        results: By the places of the items.
        gone: Set when nobody waits any more.
    """

    group: Hashable
    items: Sequence[Any]
    lengths: Sequence[int]
    done: Callable[[list[Any] | None, Exception | None], None]
    results: dict[int, Any] = field(default_factory=dict)
    gone: Event = field(default_factory=Event)
    began: float = field(default_factory=time.monotonic)

    @property
    def tokens(self) -> int:
        """Of all items."""
        return sum(self.lengths)


class Gatherer:
    """Computes items of any number of requests, in a thread of its own, sorted by their length.

    Args:
        kind: What it does, for the figures.
        compute: Maps a group and items to as many results, in forward passes of like lengths.
        limits: How long a request waits for others, and how many items and requests are computed together.
        metrics: Counts.
    """

    def __init__(self, kind: str, compute: Callable[[Any, list[Any]], Any], limits: Limits, metrics: Metrics):
        self.kind, self.compute, self.limits, self.metrics = kind, compute, limits, metrics
        self._waiting: deque[Work] = deque()
        self._change = threading.Condition()
        self._is_closed = False
        metrics.watch_queue(kind, lambda: len(self._waiting))
        threading.Thread(target=self._run, name=f"gatherer of {kind}", daemon=True).start()

    async def run(self, group: Hashable, items: Sequence[Any], lengths: Sequence[int]) -> list[Any]:
        """The results for some items, whose forward passes they may share with those of other requests.

        Raises:
            Unavailable: There is no place in the queue.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        work = Work(group, items, lengths, lambda results, error: tell(loop, settle, future, results, error))
        with self._change:
            if self._is_closed:
                raise closing()
            if sum(not other.gone.is_set() for other in self._waiting) >= self.limits.max_queue:
                raise queue_is_full(self.limits.max_queue)
            self._waiting.append(work)
            self._change.notify()
        try:
            return await future
        except asyncio.CancelledError:
            work.gone.set()
            raise

    def stop(self) -> None:
        """Ends the thread after what it computes; what waits is refused."""
        with self._change:
            self._is_closed = True
            self._change.notify()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._is_closed)
                if not self._is_closed:
                    end = self._waiting[0].began + self.limits.batch_wait
                    self._change.wait_for(lambda: self._is_full() or self._is_closed, end - time.monotonic())
                works = [*self._waiting] if self._is_closed else self._take()
                if self._is_closed:
                    self._waiting.clear()
            if self._is_closed:
                for work in works:
                    work.done(None, closing())
                return
            for _, alike in groupby(sorted(works, key=lambda work: repr(work.group)), key=lambda work: work.group):
                self._answer([*alike])

    def _is_full(self) -> bool:
        works = self._waiting
        is_long = sum(work.tokens for work in works) >= self.limits.batch_tokens
        return len(works) >= self.limits.batch_requests or is_long

    def _take(self) -> list[Work]:
        """The requests to compute together, in their order: at least one."""
        works, tokens = [], 0
        while self._waiting and len(works) < self.limits.batch_requests:
            tokens += self._waiting[0].tokens
            if works and tokens > self.limits.batch_tokens:
                break
            works.append(self._waiting.popleft())
        return [work for work in works if not work.gone.is_set()]

    def _answer(self, works: list[Work]) -> None:
        """Computes works of one group. An error is that of the work that makes it also alone."""
        try:
            self._compute(works)
        except Exception as error:
            if len(works) == 1:
                works[0].done(None, error)
                return
            for work in works:
                self._answer([work])
            return
        for work in works:
            work.done([work.results.get(place) for place in range(len(work.items))], None)

    def _compute(self, works: list[Work]) -> None:
        places = [(work, place) for work in works for place in range(len(work.items))]
        places.sort(key=lambda each: -each[0].lengths[each[1]])
        for start in range(0, len(places), SLICE):
            part = [(work, place) for work, place in places[start : start + SLICE] if not work.gone.is_set()]
            if not part:
                continue
            self.metrics.batch(self.kind, len(part))
            results = self.compute(works[0].group, [work.items[place] for work, place in part])
            for (work, place), result in zip(part, results, strict=True):
                work.results[place] = result
