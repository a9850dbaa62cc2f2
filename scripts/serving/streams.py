"""Answers that come in pieces: their errors in OpenAI's form, their time, and clients that go away."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from trine.scripts.serving.errors import error_body, too_late


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *values: Any) -> None:
    """Calls a function in a loop from another thread; a loop that is closed has nobody left to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *values)


def settle(future: asyncio.Future, result: Any, error: Exception | None) -> None:
    """Ends a future, unless its request has gone."""
    if not future.done():
        future.set_result(result) if error is None else future.set_exception(error)


async def until_disconnected(
    request: Request,
    answer: Coroutine[Any, Any, Response],
    seconds: float | None = None,
    whole: float | None = None,
) -> Response:
    """Returns the response of `answer`, which is cancelled if the client goes away or the time is over.

    Args:
        request: Tells when the client has gone.
        answer: Makes the response.
        seconds: What is left of the time.
        whole: The time that a request has, as the error tells it.

    Raises:
        Unavailable: The time is over.
    """

    async def wait_for_end() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, end = asyncio.ensure_future(answer), asyncio.ensure_future(wait_for_end())
    try:
        await asyncio.wait((task, end), return_when=asyncio.FIRST_COMPLETED, timeout=seconds)
        if not (task.done() or end.done()):
            raise too_late(whole or 0.0)
        return task.result() if task.done() else Response(status_code=499)
    finally:
        task.cancel()
        end.cancel()


async def mend_errors(events: AsyncIterable[Any]) -> AsyncIterator[Any]:
    """The events of a stream, in which an error is in OpenAI's form; transformers writes its text unquoted."""
    start, end = 'data: {"error": "', '"}\n\n'
    async for event in events:
        before, mark, message = str(event).rpartition(start)
        if mark and message.endswith(end):
            error = error_body(400, message.removesuffix(end))
            event = f"{before}data: {json.dumps(error)}\n\n"
        yield event


async def until(events: AsyncIterator[Any], seconds: float, whole: float) -> AsyncIterator[Any]:
    """The events of a stream, until its time is over: the last then is an error, and no more is generated.

    Args:
        events: The stream.
        seconds: What is left of the time.
        whole: The time that a request has, as the error tells it.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        try:
            event = await asyncio.wait_for(anext(events), max(0.0, end - loop.time()))
        except StopAsyncIteration:
            return
        except TimeoutError:
            error = too_late(whole)
            yield f"data: {json.dumps(error_body(error.status_code, str(error), code=error.code))}\n\n"
            return
        yield event
