"""Generation that takes turns with other work: one token at a time, in a thread that otherwise stands still."""

import threading
from collections.abc import Callable
from threading import Event
from typing import Any

import torch


class Aside:
    """A call of `generate` that goes on by one token at each `advance`, such as a search with beams.

    What calls `advance` and what generates never run at the same time, so neither needs a lock, and the random numbers
    of PyTorch are drawn in the same order as without company, provided that nothing else draws them meanwhile.

    Args:
        generate: Gets a stopping criterion for `generate`, and returns what that makes.
        is_over: Whether nobody waits for more tokens.
    """

    def __init__(self, generate: Callable[[Callable[..., torch.Tensor]], Any], is_over: Callable[[], bool]):
        self.made: Any = None
        self.error: Exception | None = None
        self.is_done = False
        self._generate, self._is_over = generate, is_over
        self._go, self._stands = Event(), Event()
        self._thread = threading.Thread(target=self._run, name="aside", daemon=True)
        self._thread.start()

    def advance(self) -> bool:
        """Generates until the stopping criteria are asked again, which is one token. Returns whether that was the end.

        The result then is in `made`, or the exception in `error`.
        """
        if not self.is_done:
            self._stands.clear()
            self._go.set()
            self._stands.wait()
        if self.is_done:
            self._thread.join()
        return self.is_done

    def _run(self) -> None:
        self._wait()
        try:
            self.made = self._generate(self._stop)
        except Exception as error:
            self.error = error
        self.is_done = True
        self._stands.set()

    def _wait(self) -> None:
        self._go.wait()
        self._go.clear()

    def _stop(self, ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Lets others work between two tokens, and tells which texts are over."""
        if not self._is_over():
            self._stands.set()
            self._wait()
        return torch.full(ids.shape[:1], self._is_over(), device=ids.device, dtype=torch.bool)
