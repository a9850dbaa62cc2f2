"""Results of a process of its own as they come, within a limit of time: what fails or hangs loses nothing."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch


T = TypeVar("T")


def stream(
    function: Callable[..., Iterator[T]], *args, seconds: float, method: str = "spawn", preload: str | None = None
) -> Iterator[T]:
    """Yields what a generator function yields in a process of its own. Function and arguments must be picklable.

    Args:
        seconds: After so many the process is killed.
        method: "spawn" begins a process from nothing; "forkserver" copies one that has imported `preload`, in
            milliseconds. The copies can use a GPU if nothing has asked for one at import.

    Raises:
        TimeoutError: The time is over.
        RuntimeError: The function raised, or its process ended.
    """
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver" and preload is not None:
        context.set_forkserver_preload([preload])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, torch.get_num_threads(), function, args))
    process.start()
    sender.close()
    end = time.monotonic() + seconds
    try:
        while receiver.poll(max(0.0, end - time.monotonic())):
            kind, value = receiver.recv()
            if kind == "end":
                process.join(seconds)
                return
            if kind == "error":
                raise RuntimeError(value)
            yield value
        raise TimeoutError(f"stopped after {seconds:.0f} s")
    except EOFError:
        process.join()
        raise RuntimeError(f"its process ended with exit status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        receiver.close()


def _send(sender, threads: int, function: Callable[..., Iterator], args: tuple) -> None:
    torch.set_num_threads(threads)
    try:
        for value in function(*args):
            sender.send(("value", value))
        sender.send(("end", None))
    except Exception as error:
        sender.send(("error", one_line(error)))


def one_line(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
