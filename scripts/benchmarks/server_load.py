"""Servers as processes, and requests to them at random times, with what each request took."""

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx


LOAD_SECONDS = 300


@dataclass(frozen=True)
class Answer:
    """Result of a request: status, text or vector, new tokens, and seconds to the first piece and to the end."""

    status: int
    content: Any
    tokens: int
    first: float
    whole: float


@dataclass
class Load:
    """Results of all requests of a server: its answers in order, the time on the clock and of its process."""

    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """New tokens of all answers."""
        return sum(answer.tokens for answer in self.answers)

    def percentile(self, percent: float, name: str = "whole") -> float:
        """Seconds within which so many of the requests were answered, or had their first piece."""
        times = sorted(getattr(answer, name) for answer in self.answers)
        return times[min(len(times) - 1, int(len(times) * percent / 100))]


class ServerProcess:
    """A server that runs: where it listens, and what its process has used."""

    def __init__(self, url: str, process: subprocess.Popen):
        self.url, self.process = url, process

    def cpu_seconds(self) -> float:
        """Of the process and its threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes that are resident."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="utf-8").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running(command: Sequence[str], threads: int) -> Iterator[ServerProcess]:
    """Starts a server on a free port, which `{port}` in its command stands for, and ends it.

    Raises:
        RuntimeError: It does not answer.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    words = [word.replace("{port}", port) for word in command]
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        [sys.executable, *words], env=os.environ | quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url, end = f"http://localhost:{port}", time.monotonic() + LOAD_SECONDS
    try:
        while True:
            try:
                if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"The server does not answer: {' '.join(words)}")
            time.sleep(0.2)
        yield ServerProcess(url, process)
    finally:
        process.kill()
        process.wait()


def arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Times of a Poisson process, in seconds: `rate` requests in a second; a rate of 0 sends all at once."""
    chooser, times, now = random.Random(seed), [], 0.0
    for _ in range(count):
        now += chooser.expovariate(rate) if rate else 0.0
        times.append(now)
    return times


def send(server: ServerProcess, path: str, bodies: Sequence[dict], times: Sequence[float]) -> Load:
    """Sends requests at some times, and waits for all answers."""

    async def run() -> list[Answer]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=server.url, timeout=None, limits=limits) as client:
            begun = time.perf_counter()

            async def ask(body: dict, due: float) -> Answer:
                await asyncio.sleep(max(0.0, due - (time.perf_counter() - begun)))
                return await (ask_stream if body.get("stream") else ask_whole)(client, path, body)

            return await asyncio.gather(*map(ask, bodies, times))

    load, begun, cpu = Load(), time.perf_counter(), server.cpu_seconds()
    load.answers = asyncio.run(run())
    tick = 1 / os.sysconf("SC_CLK_TCK")  # the system counts in steps
    load.seconds, load.cpu_seconds = time.perf_counter() - begun, max(tick, server.cpu_seconds() - cpu)
    return load


async def ask_stream(client: httpx.AsyncClient, path: str, body: dict) -> Answer:
    """A completion that comes in pieces."""
    begun, first, text, tokens = time.perf_counter(), 0.0, "", 0
    async with client.stream("POST", path, json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            text += "".join(map(text_of, event.get("choices", [])))
            first = first or time.perf_counter() - begun
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        return Answer(response.status_code, text, tokens, first, time.perf_counter() - begun)


async def ask_whole(client: httpx.AsyncClient, path: str, body: dict) -> Answer:
    """An answer that comes at once."""
    begun = time.perf_counter()
    response = await client.post(path, json=body)
    taken, tokens = time.perf_counter() - begun, 0
    content = response.json()
    if response.status_code == 200:
        tokens = content["usage"].get("completion_tokens", 0)
        content = content["data"] if "data" in content else text_of(content["choices"][0])
    return Answer(response.status_code, content, tokens, taken, taken)


def text_of(choice: dict) -> str:
    """The text of a completion, a chat, or a piece of either."""
    return (
        choice["text"]
        if "text" in choice
        else (choice.get("delta") or choice.get("message") or {}).get("content") or ""
    )


def figures(server: ServerProcess) -> dict[str, float]:
    """The values of `/metrics` of `trine serve`, by name and labels as it writes them."""
    lines = httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}
