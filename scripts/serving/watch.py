"""Counts, times and logs every request, and answers for an application that is not ready or is closing."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from fastapi.responses import JSONResponse

from trine.scripts.serving.asked import ASKED, Asked
from trine.scripts.serving.errors import error_response
from trine.scripts.serving.metrics import ANSWERS, Metrics


UNCOUNTED = ("/health", "/metrics")  # they do not keep a server from closing
KNOWN = (*ANSWERS, "/v1/models", "/cache/clear", *UNCOUNTED)


class Watch:
    """Lets requests through to `app`, which is None until the models are loaded.

    Args:
        metrics: Gets the time of each.
        log: Whether a line of JSON is written for each, to standard error.
        write: Writes a line of it.
    """

    def __init__(self, metrics: Metrics, log: bool = False, write: Callable[[str], Any] | None = None):
        self.app: Any = None
        self.metrics, self.log, self.write = metrics, log, write or write_line
        self.active, self.is_closing = 0, False
        metrics.watch_active(lambda: self.active)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await answer_lifespan(receive, send)
            return
        asked, status = Asked(), 499  # if nothing is sent, the client has gone
        ASKED.set(asked)
        is_counted = scope["path"] not in UNCOUNTED

        async def send_watched(event: Any) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        self.active += is_counted
        try:
            await (self.answer(scope) or self.app)(scope, receive, send_watched)
        except BaseException:
            status = 500 if status < 400 else status
            raise
        finally:
            self.active -= is_counted
            path = scope["path"] if scope["path"] in KNOWN else "other"
            self.metrics.request(path, status, asked.seconds)
            if self.log:
                self.write(describe(scope, status, asked))

    def answer(self, scope: Any) -> Any:
        """The answer in place of the application's; None if it can answer."""
        is_health = scope["path"] == "/health"
        if self.is_closing and scope["path"] not in UNCOUNTED:
            return error_response(503, "The server is shutting down.", "server_closing", Retry_After="5")
        if self.app is None:
            if is_health:
                return JSONResponse({"status": "loading"}, 503)
            return error_response(503, "The models are being loaded.", "loading", Retry_After="2")
        return None


def describe(scope: Any, status: int, asked: Asked) -> str:
    """A line of JSON for the log. It has nothing of what was asked or answered."""
    client = (scope.get("client") or ["?"])[0]
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "client": client,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "seconds": round(asked.seconds, 4),
    }
    counts = {name: getattr(asked, name) for name in ("prompt_tokens", "new_tokens", "cached_tokens", "cache")}
    return json.dumps(line | {name: value for name, value in counts.items() if value})


def write_line(line: str) -> None:
    """Writes to standard error."""
    print(line, file=sys.stderr, flush=True)


async def answer_lifespan(receive: Any, send: Any) -> None:
    """Tells the server that there is nothing to prepare."""
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return
