"""Requests to a decoder that are generated together: each joins the batch at any token, and leaves when it ends."""

import asyncio
import random
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Event
from typing import Any

import torch
from transformers.cli.serving.utils import BaseGenerateManager, DirectStreamer, _StreamError

from trine.generation.batching.generation_batch import GenerationBatch
from trine.generation.prefixes.prefix_cache import PrefixCache
from trine.scripts.serving.aside import Aside
from trine.scripts.serving.asked import current
from trine.scripts.serving.errors import closing, queue_is_full
from trine.scripts.serving.jobs import Job, generate_alone, generate_sources
from trine.scripts.serving.limits import Limits
from trine.scripts.serving.metrics import Metrics
from trine.scripts.serving.streams import settle, tell


class Batcher(BaseGenerateManager):
    """Generates for any number of requests at once, in a thread of its own.

    Those that wait join the batch in their order, before any token. What cannot be generated in a batch, such as
    beams, takes turns with the batch, token by token, one such request at a time; of an encoder-decoder, those that
    wait with the same settings, without chance or streams, are written together. Who is abandoned leaves its place.

    Args:
        limits: Of the batch and of the queue.
        metrics: Counts.
        prefix_cache: Keeps what was read, across requests.
        default_seed: Makes the answers to requests without a seed the same in each run of the same requests.
    """

    def __init__(
        self,
        limits: Limits,
        metrics: Metrics,
        prefix_cache: PrefixCache | None = None,
        default_seed: int | None = None,
    ):
        self.limits, self.metrics, self.prefix_cache = limits, metrics, prefix_cache
        self.closing = Event()
        self._seeds = random.Random(default_seed)
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._batch: GenerationBatch | None = None
        self._aside: tuple[list[Job], Aside] | None = None
        self._change = threading.Condition()
        metrics.watch_queue("generation", lambda: len(self._waiting))
        if prefix_cache is not None:
            metrics.watch_cache("prefix", lambda: prefix_cache.state.bytes)
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether the thread that generates runs."""
        return self._thread.is_alive()

    def generate_streaming(
        self, model, processor: Any, inputs, gen_config, request_id, response_parser=None
    ) -> tuple[asyncio.Queue, DirectStreamer]:
        """Streams an answer, which ends with its request. Raises an Unavailable where there is no place."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()
        tokenizer = getattr(processor, "tokenizer", processor)._tokenizer
        streamer = DirectStreamer(tokenizer, loop, queue, response_parser=response_parser)

        def done(tokens: torch.Tensor | None, error: Exception | None) -> None:
            if streamer._cancelled.is_set():
                tell(loop, queue.put_nowait, None)
            elif error is not None:
                tell(loop, queue.put_nowait, _StreamError(str(error)))
            elif not loop.is_closed():
                streamer.end()

        self._put(Job(model, {**inputs, "tokenizer": processor}, gen_config, current(), done, streamer))
        return queue, streamer

    async def generate_non_streaming(
        self, model, processor: Any, inputs, gen_config, request_id
    ) -> tuple[str, int, torch.Tensor]:
        """Generates an answer, which ends with its request. Raises an Unavailable where there is no place."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def done(tokens: torch.Tensor | None, error: Exception | None) -> None:
            tell(loop, settle, future, tokens, error)

        job = Job(model, {**inputs, "tokenizer": processor}, gen_config, current(), done)
        self._put(job)
        try:
            tokens = await future
        except asyncio.CancelledError:
            job.gone.set()
            raise
        return processor.decode(tokens, skip_special_tokens=True), job.tokens, tokens

    def stop(self) -> None:
        """Ends what is being generated, and the thread."""
        with self._change:
            self.closing.set()
            self._change.notify()

    def _put(self, job: Job) -> None:
        with self._change:
            if self.closing.is_set():
                raise closing()
            waiting = [other for other in self._waiting if not other.is_gone]
            if len(waiting) >= self.limits.max_queue:
                raise queue_is_full(self.limits.max_queue)
            job.asked.prompt_tokens = job.tokens
            self._waiting.append(job)
            self._change.notify()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._running or self._aside or self.closing.is_set())
            if self.closing.is_set():
                self._end_aside()
                for job in [*self._running, *self._waiting]:
                    job.done(None, closing())
                return
            try:
                self._let_in()
                self._step()
                self._step_aside()
            except Exception as error:  # of the model: all rows have lost their states
                self._lose_all(error)

    def _lose_all(self, error: Exception) -> None:
        for job in self._running:
            job.done(None, error)
        self._running.clear()
        if self._batch is not None:
            self._batch.clear()

    def _let_in(self) -> None:
        """Begins with the requests that wait, as many as there is room for."""
        while (job := self._next()) is not None:
            seed = self._seeds.getrandbits(62) if job.asked.seed is None else job.asked.seed
            if job.look().is_alone:
                self._begin_aside(job, seed)
                continue
            batch = self._batch_of(job)
            try:
                given = {"generation_config": job.settings, "streamer": job.streamer, **job.inputs}
                job.row = batch.add(given.pop("input_ids"), seed=seed, **given)
            except Exception as error:  # what `generate` refuses, or a model that cannot read this
                job.done(None, error)
                continue
            self.metrics.first_token(job.asked)
            job.asked.cached_tokens = job.row.cached_tokens
            if job.row.is_done:
                self._end(job)
            else:
                self._running.append(job)

    def _batch_of(self, job: Job) -> GenerationBatch:
        """The batch of a request's model, which is a new one where nothing runs in that of another."""
        if self._batch is None or (self._batch.model is not job.model and not self._running):
            self._batch = GenerationBatch(job.model, self.prefix_cache)
        return self._batch

    def _next(self) -> Job | None:
        """The first request that there is room for; one that is generated by itself may overtake, and be overtaken."""
        with self._change:
            if self.closing.is_set():
                return None
            for job in [job for job in self._waiting if job.is_gone]:
                self._waiting.remove(job)
                job.done(None, None)
            aside = 0 if self._aside is None else len(self._aside[0])
            if len(self._running) + aside >= self.limits.batch_requests:
                return None
            is_open = True
            self._look_at_all()
            for job in [*self._waiting]:
                if (self._aside is None) if job.look().is_alone else (is_open := is_open and self._has_room(job)):
                    self._waiting.remove(job)
                    return job
            return None

    def _look_at_all(self) -> None:
        """Finds out how each request that waits is generated. Those whose settings are refused leave."""
        for job in [job for job in self._waiting if job.way is None]:
            try:
                job.look()
            except Exception as error:
                self._waiting.remove(job)
                job.done(None, error)

    def _has_room(self, job: Job) -> bool:
        """Whether the tokens of the batch, padding included, allow another row."""
        batch = self._batch_of(job)
        if not self._running:
            return True
        return batch.model is job.model and (len(batch) + 1) * max(batch.width, job.tokens) <= self.limits.batch_tokens

    def _begin_aside(self, job: Job, seed: int) -> None:
        """Begins with a request that is generated by itself, and with those that can be written beside it."""
        jobs = [job]
        if job.look().takes_company and self.prefix_cache is None:
            with self._change:
                jobs += self._company(job)
        generate: Callable[..., Any] = partial(generate_sources, jobs)
        if len(jobs) == 1:
            generate = partial(generate_alone, job, seed, self.prefix_cache)
        self._aside = (
            jobs,
            Aside(generate, lambda: all(each.is_gone for each in jobs) or self.closing.is_set()),
        )

    def _company(self, job: Job) -> list[Job]:
        """Takes those requests out of the queue that can be written beside one."""
        company, most = [], job.tokens
        for other in [*self._waiting]:
            if 1 + len(company) + len(self._running) >= self.limits.batch_requests:
                break
            if other.model is not job.model or other.is_gone or other.way != job.way:
                continue
            most = max(most, other.tokens)
            if (2 + len(company)) * most > self.limits.batch_tokens:
                break
            self._waiting.remove(other)
            company.append(other)
        return company

    def _step_aside(self) -> None:
        """Adds a token to the requests that are generated beside the batch."""
        if self._aside is None:
            return
        jobs, aside = self._aside
        self.metrics.batch("generation", len(jobs))
        if not aside.advance():
            return
        self._aside = None
        error = closing() if self.closing.is_set() else aside.error
        if error is not None:
            for job in jobs:
                job.done(None, error)
            return
        for job, tokens in zip(jobs, [aside.made] if len(jobs) == 1 else aside.made, strict=True):
            self._finish(job, tokens)

    def _end_aside(self) -> None:
        """Ends the requests that are generated beside the batch, when the server closes."""
        if self._aside is not None:
            jobs, aside = self._aside
            while not aside.advance():
                pass
            for job in jobs:
                job.done(None, closing())
            self._aside = None

    def _step(self) -> None:
        """Adds a token to each text, and ends those that are over or that nobody waits for."""
        batch = self._batch
        if batch is None:
            return
        gone = [job for job in self._running if job.is_gone]
        batch.remove([job.row for job in gone if job.row is not None])
        for job in gone:
            self._running.remove(job)
            job.done(None, None)
        if self._running:
            self.metrics.batch("generation", len(batch))
            ended = {id(row) for row in batch.step()}
            for job in [job for job in self._running if id(job.row) in ended]:
                self._running.remove(job)
                self._end(job)

    def _end(self, job: Job) -> None:
        row = job.row
        assert row is not None
        if row.error is not None:
            job.done(None, row.error)
        else:
            self._finish(job, row.ids[0, row.prompt_tokens :])

    def _finish(self, job: Job, tokens: torch.Tensor) -> None:
        job.asked.new_tokens = len(tokens)
        self.metrics.generated(job.asked, has_prefix_cache=self.prefix_cache is not None)
        job.done(tokens, None)
