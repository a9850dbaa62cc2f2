"""A server that answers requests of all kinds for some time: its memory, its caches, and chats of several turns."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from trine.scripts.benchmarks.server_load import Load, ServerProcess, figures, send


TEXTS, CHATS, VECTORS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
BEAMS = {"generation_config": '{"num_beams": 2, "do_sample": false, "pad_token_id": 0}', "stream": False}
SAMPLED = {"temperature": 1.0}
CACHES = {"prefix": "8MiB", "response": "1MiB"}  # small, so that they are full for most of the time
SYSTEM = "You answer in short sentences, and say so where you do not know the answer. " * 4
# Ways in which requests follow one another; each is a path and what is set beside prompt and length.
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    (TEXTS, {}),
    (TEXTS, {"stream": False}),
    (TEXTS, SAMPLED),
    (TEXTS, {**SAMPLED, "seed": 1}),
    (TEXTS, BEAMS),
    (TEXTS, {"stop": "e"}),
    (CHATS, {}),
    (CHATS, {"stream": False}),
    (TEXTS, {"max_tokens": 0}),  # which is refused
    (VECTORS, {}),
)
PARTS = 8  # of the second half, over whose means the slope is fitted
T_VALUE = 2.447  # of Student's distribution with PARTS - 2 degrees of freedom, for 95 %


def rounds(bodies: Sequence[dict], has_vectors: bool) -> Iterator[dict[str, list[dict]]]:
    """Requests by path, without end: as many of each kind as there are bodies, of which every second one is new."""
    number = 0
    while True:
        asked: dict[str, list[dict]] = {}
        for place, body in enumerate(bodies):
            path, settings = KINDS[place % len(KINDS)]
            prompt = f"{number if place % 2 else 0} {body['prompt']}"
            given = {**body, "prompt": prompt, **settings}
            if path == CHATS:
                given["messages"] = [{"role": "user", "content": given.pop("prompt")}]
            if path == VECTORS:
                given = {"input": f"{prompt} {place}"}
            if path != VECTORS or has_vectors:
                asked.setdefault(path, []).append(given)
            number += 1
        yield asked


def soak(process: ServerProcess, bodies: Sequence[dict], seconds: float, has_vectors: bool = False) -> str:
    """Asks for so many seconds, and tells what became of the server's memory and caches."""
    begun, asked, samples, largest = time.monotonic(), rounds(bodies, has_vectors), [], {}
    count = 0
    while not samples or time.monotonic() - begun < seconds:
        for path, group in next(asked).items():
            load = send(process, path, group, [0.0] * len(group))
            wrong = [
                answer.status
                for answer, body in zip(load.answers, group, strict=True)
                if answer.status != (400 if body.get("max_tokens") == 0 else 200)
            ]
            if wrong:
                raise RuntimeError(f"{path} answered {len(wrong)} requests with {sorted({*wrong})}.")
            count += len(group)
        samples.append((count, process.memory() / 2**20))
        now = figures(process)
        for name in ("prefix", "response"):
            key = f'trine_cache_bytes{{cache="{name}"}}'
            largest[name] = max(largest.get(name, 0.0), now.get(key, 0.0) / 2**20)
    sizes = ", ".join(f"{name} {size:.1f} MiB" for name, size in largest.items())
    slope, error = growth(samples)
    parts = [samples[min(len(samples) - 1, len(samples) * quarter // 4)] for quarter in range(5)]
    told = ", ".join(f"{size:.0f} MiB after {number:,}" for number, size in parts)
    interval = f"95 %: {slope - error:.2f} to {slope + error:.2f}"
    return (
        f"Requests of all kinds for {time.monotonic() - begun:.0f} s, caches of {' and '.join(CACHES.values())}: "
        f"memory {told} requests. In the second half it grew by {slope:.2f} MiB per 1,000 requests ({interval}). "
        f"The most in the caches: {sizes}. {hits(now)}"
    )


def growth(samples: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Slope of the second half of some (requests, MiB), per 1,000 requests, and half of its interval of 95 %.

    By least squares over means of parts, which hang together less than neighbours do; NaN for too few samples.
    """
    late = np.array(samples[len(samples) // 2 :], dtype=float)
    if len(late) < PARTS:
        return float("nan"), float("nan")
    x, y = np.array([part.mean(axis=0) for part in np.array_split(late, PARTS)]).T
    x = x / 1000
    slope, start = np.polyfit(x, y, 1)
    variance = ((y - slope * x - start) ** 2).sum() / (PARTS - 2)
    return float(slope), float(T_VALUE * np.sqrt(variance / ((x - x.mean()) ** 2).sum()))


def hits(now: dict[str, float]) -> str:
    """Hit rates of the caches and the mean size of a batch, by the server's own figures, as a sentence."""
    told = []
    for name in ("prefix", "response"):
        hit, miss = (
            now.get(f'trine_cache_requests_total{{cache="{name}",result="{each}"}}', 0) for each in ("hit", "miss")
        )
        if hit + miss:
            told.append(f"{name} cache {hit / (hit + miss):.3f} of {hit + miss:.0f} requests")
    cached, read = (now.get(f'trine_tokens_total{{kind="{kind}"}}', 0) for kind in ("cached", "prompt"))
    told.append(f"{cached / max(1, read):.3f} of {read:,.0f} tokens of prompts not read again")
    rows, passes = (now.get(f'trine_batch_size_{each}{{kind="generation"}}', 0) for each in ("sum", "count"))
    return f"Hits: {', '.join(told)}; {rows / max(1, passes):.2f} rows in a forward pass."


def chats(process: ServerProcess, bodies: Sequence[dict], turns: int) -> str:
    """Holds chats at once, each of which goes on with the server's answers, and tells what was not read again."""
    talks: list[list[dict]] = [[{"role": "system", "content": SYSTEM}] for _ in bodies]
    load = Load()
    for turn in range(turns):
        for talk, body in zip(talks, bodies, strict=True):
            talk.append({"role": "user", "content": f"{turn} {body['prompt']}"})
        asked = [
            {"messages": talk, "temperature": 0.0, "max_tokens": body["max_tokens"]}
            for talk, body in zip(talks, bodies, strict=True)
        ]
        load = send(process, CHATS, asked, [0.0] * len(asked))
        if {answer.status for answer in load.answers} != {200}:
            raise RuntimeError(f"{CHATS} answered with {sorted({answer.status for answer in load.answers})}.")
        for talk, answer in zip(talks, load.answers, strict=True):
            talk.append({"role": "assistant", "content": answer.content})
    return f"{len(talks)} chats of {turns} turns at once, with one system prompt. {hits(figures(process))}"
