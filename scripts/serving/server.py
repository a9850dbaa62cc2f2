"""The process of `trine serve`: it listens, loads, and ends without cutting off what it answers."""

import asyncio
import signal
import threading
from collections.abc import Callable
from typing import Any

import uvicorn

from trine.scripts.serving.watch import Watch


class Server(uvicorn.Server):
    """Listens at once, and answers when `load` has returned the application, in a thread of its own.

    SIGTERM lets the requests that are being answered end, for at most `grace` seconds, while new ones get status 503.
    A second signal, and Ctrl-C, end them.

    Args:
        watch: What every request passes.
        load: Makes the application, and returns it with the line to print and what ends generation.
        grace: Seconds.
        options: Of uvicorn.
    """

    def __init__(
        self, watch: Watch, load: Callable[[], tuple[Any, str, Callable[[], None]]], grace: float, **options: Any
    ):
        super().__init__(uvicorn.Config(watch, timeout_graceful_shutdown=2, **options))
        self.watch, self.load, self.grace = watch, load, grace
        self.error: BaseException | None = None
        self._stop: Callable[[], None] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task | None = None

    async def startup(self, sockets: Any = None) -> None:
        """Begins to listen, and to load."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        if self.started:
            threading.Thread(target=self._load, name="loader", daemon=True).start()

    def _load(self) -> None:
        try:
            self.watch.app, welcome, self._stop = self.load()
        except BaseException as error:  # for the main thread, which tells it
            self.error = error
            self.should_exit = True
            return
        print(welcome, flush=True)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Ends the server: after what it is answering, or at once."""
        if sig != signal.SIGTERM or self.watch.is_closing or self._loop is None:
            self._end(sig, frame)
            return
        self.watch.is_closing = True
        self._loop.call_soon_threadsafe(self._begin_drain, sig, frame)

    def _begin_drain(self, sig: int, frame: Any) -> None:
        self._drain = asyncio.ensure_future(self._drained(sig, frame))

    async def _drained(self, sig: int, frame: Any) -> None:
        end = asyncio.get_running_loop().time() + self.grace
        while self.watch.active and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        self._end(sig, frame)

    def _end(self, sig: int, frame: Any) -> None:
        self.watch.is_closing = True
        super().handle_exit(sig, frame)
        self._stop()
