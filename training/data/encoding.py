"""Tokenises a long text in several processes, in order and in memory that does not grow with it."""

import gc
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from ...tokenization.text_files import Piece


# The token ids of texts, as bytes of 32-bit integers.
Encoder = Callable[[list[str]], list[bytes]]
# Batches that this process tokenises alone: to start others would not pay for less.
ALONE = 4

_encoder: Encoder  # of a process of the pool


def encode_batches(
    batches: Iterable[list[Piece]], encode: Encoder, processes: int | None = None
) -> Iterator[tuple[list[Piece], list[bytes]]]:
    """Yields each batch with the token ids of its texts.

    Args:
        encode: Function from texts to ids; it must be picklable where processes are not forked.
        processes: Number of processes that tokenise; 1 is this one. Default: one for each core that this process may
            use. They are started in the way that Python's `multiprocessing` is set to.

    Raises:
        ValueError: Fewer than one process.
    """
    processes = usable_cores() if processes is None else processes
    if processes < 1:
        raise ValueError(f"processes={processes} must be at least 1.")
    batches = iter(batches)
    for batch in batches if processes == 1 else islice(batches, ALONE):
        yield batch, encode([piece.text for piece in batch])
    waiting: deque = deque()
    pool = ProcessPoolExecutor(processes, initializer=_start, initargs=(encode,))
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(_encode, [piece.text for piece in batch])))
            if len(waiting) > processes:  # one more than are at work, so that none has to wait for its next
                yield _finish(*waiting.popleft())
        while waiting:
            yield _finish(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(encode: Encoder) -> None:
    global _encoder
    gc.freeze()  # else collecting garbage would write to, and so copy, all that a forked process shares
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the main process, which ends this one
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core has a process
    _encoder = encode


def _encode(texts: list[str]) -> list[bytes]:
    return _encoder(texts)


def _finish(batch: list[Piece], future) -> tuple[list[Piece], list[bytes]]:
    return batch, future.result()
