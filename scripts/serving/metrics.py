"""Counts and times of `trine serve`, in the form that Prometheus reads."""

import threading
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from trine.scripts.serving.asked import Asked
from trine.training.measures.energy import EnergyMeter


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
# The paths that models answer.
ANSWERS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v2/rerank",
)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The figures of one server, from its start on.

    Args:
        energy_country: Three letters, whose mix of electricity decides the CO2; None to measure no energy.

    Raises:
        ImportError: Energy is to be measured, and codecarbon is not installed.
        ValueError: codecarbon does not know the country.
    """

    def __init__(self, energy_country: str | None = None):
        self._meter = None if energy_country is None else EnergyMeter(energy_country)
        self._answers, self._lock = 0, threading.Lock()
        self.registry = CollectorRegistry()
        at: dict[str, Any] = {"registry": self.registry}
        seconds: dict[str, Any] = {"buckets": SECONDS, **at}
        self._requests = Histogram(
            "trine_request_seconds", "Time from a request to the end of its answer.", ("path", "status"), **seconds
        )
        self._first = Histogram("trine_first_token_seconds", "Time from a request to its first new token.", **seconds)
        self._batches = Histogram(
            "trine_batch_size",
            "Texts, pairs or rows in a forward pass.",
            ("kind",),
            buckets=SIZES,
            **at,
        )
        self._queues = Gauge("trine_queue_length", "Requests that wait for a place in a batch.", ("kind",), **at)
        self._active = Gauge("trine_active_requests", "Requests that are being answered.", **at)
        self._sizes = Gauge("trine_cache_bytes", "Memory of what a cache holds.", ("cache",), **at)
        self._caches = Counter("trine_cache_requests", "What a cache was asked for.", ("cache", "result"), **at)
        self._tokens = Counter("trine_tokens", "Tokens of prompts, generated, and not read again.", ("kind",), **at)
        if self._meter is not None:
            self._meter.start()
            kind = ("is_estimated",)
            self._joules = Gauge("trine_energy_joules", "Since the start, of processor, GPU and memory.", kind, **at)
            self._each = Gauge("trine_energy_joules_per_request", "Since the start, idle time included.", kind, **at)
            self._co2 = Gauge("trine_co2_grams", "Since the start, by the country's mix of electricity.", kind, **at)

    def watch_queue(self, kind: str, length: Callable[[], int]) -> None:
        """Asks `length` for the number of requests that wait, whenever somebody reads the figures."""
        self._queues.labels(kind).set_function(length)

    def watch_active(self, count: Callable[[], int]) -> None:
        """Asks `count` for the number of requests that are being answered."""
        self._active.set_function(count)

    def watch_cache(self, name: str, size: Callable[[], int]) -> None:
        """Asks `size` for the bytes of a cache, whenever somebody reads the figures."""
        self._sizes.labels(name).set_function(size)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Counts an answer."""
        self._answers += path in ANSWERS
        self._requests.labels(path, status).observe(seconds)

    def first_token(self, asked: Asked) -> None:
        """Notes that a request has its first new token."""
        self._first.observe(asked.seconds)

    def batch(self, kind: str, size: int) -> None:
        """Counts a forward pass."""
        self._batches.labels(kind).observe(size)

    def cache(self, name: str, hits: int, misses: int) -> None:
        """Counts what a cache had and had not."""
        for result, count in (("hit", hits), ("miss", misses)):
            self._caches.labels(name, result).inc(count)

    def read(self, tokens: int) -> None:
        """Counts tokens of prompts, texts or pairs."""
        self._tokens.labels("prompt").inc(tokens)

    def generated(self, asked: Asked, has_prefix_cache: bool) -> None:
        """Counts what was read and written for a request."""
        self.read(asked.prompt_tokens)
        self._tokens.labels("generated").inc(asked.new_tokens)
        self._tokens.labels("cached").inc(asked.cached_tokens)
        if has_prefix_cache:
            self.cache("prefix", int(asked.cached_tokens > 0), int(not asked.cached_tokens))

    def write(self) -> bytes:
        """All figures, as text."""
        with self._lock:
            self._measure_energy()
        return generate_latest(self.registry)

    def _measure_energy(self) -> None:
        if self._meter is None:
            return
        use = self._meter.so_far()
        kind = str(use.is_estimated).lower()
        self._joules.labels(kind).set(use.joules)
        self._each.labels(kind).set(use.per(self._answers))
        self._co2.labels(kind).set(1000 * (use.co2_kg or 0.0))
