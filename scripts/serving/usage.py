"""The tokens of a prompt that a prefix cache knew, in answers, as OpenAI's API names them."""

import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

from fastapi.responses import JSONResponse, Response, StreamingResponse


def tell_cached(body: dict[str, Any], count: int) -> dict[str, Any]:
    """Writes the number into the usage of an answer, or of a stream's last event."""
    for holder in (body, body.get("response")):
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if usage:
            name = "input_tokens_details" if "input_tokens" in usage else "prompt_tokens_details"
            usage[name] = {**(usage.get(name) or {}), "cached_tokens": count}
    return body


def with_cached_tokens(response: Response, count: Callable[[], int]) -> Response:
    """An answer, or a stream, with the number, which `count` gives when all is written."""
    if isinstance(response, StreamingResponse):
        response.body_iterator = in_stream(response.body_iterator, count)
    elif isinstance(response, JSONResponse):
        return JSONResponse(tell_cached(json.loads(bytes(response.body)), count()), response.status_code)
    return response


async def in_stream(events: AsyncIterable[Any], count: Callable[[], int]) -> AsyncIterator[Any]:
    """The events of a stream, with the number where the usage stands."""

    def write(line: re.Match) -> str:
        return f"data: {json.dumps(tell_cached(json.loads(line[1]), count()))}"

    async for event in events:
        yield re.sub(r'(?m)^data: (\{.*"usage": ?\{.*\})$', write, str(event))
