"""Answers of a decoder from a cache: whole ones, and streams, which come again as they came."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

from fastapi.responses import JSONResponse, Response, StreamingResponse

from trine.scripts.serving.asked import Asked, current
from trine.scripts.serving.response_cache import ResponseCache
from trine.scripts.serving.usage import with_cached_tokens


HEADER = "x-trine-cache"


class KnownAnswers:
    """Answers requests from a cache where they are known, and keeps the answers of those that are not.

    An answer is kept under a number of its own, which becomes the number of each request that gets it.
    """

    def __init__(self, responses: ResponseCache):
        self.responses = responses

    async def answer(self, key: bytes | None, number: str, generate: Callable[[str], Awaitable[Response]]) -> Response:
        """The answer to a request, whose header `x-trine-cache` says "hit" or "miss".

        Args:
            key: Of the request; None if its answer is not certain.
            number: That the answer shall have.
            generate: Makes the answer with a number.
        """
        if key is None:
            return await generate(number)
        asked = current()
        (found,) = self.responses.get([key])
        if found is None:
            asked.cache, inner = "miss", str(uuid4())
            response = self._keep(key, inner, number, await generate(inner))
        else:
            asked.cache = "hit"
            response = restore(found, number, asked)
        response.headers[HEADER] = asked.cache
        return response

    def _keep(self, key: bytes, inner: str, number: str, response: Response) -> Response:
        if isinstance(response, StreamingResponse):
            response.body_iterator = self._kept(key, inner, number, response.body_iterator)
            return response
        text = bytes(response.body).decode()
        if response.status_code == 200:
            self._put(key, inner, is_stream=False, text=text)
        return Response(text.replace(inner, number), response.status_code, media_type=response.media_type)

    async def _kept(self, key: bytes, inner: str, number: str, events: AsyncIterable[Any]) -> AsyncIterator[str]:
        """The events of a stream, which are kept if it ends well."""
        parts = []
        async for event in events:
            parts.append(str(event))
            yield parts[-1].replace(inner, number)
        text = "".join(parts)
        if text and 'data: {"error"' not in text and '"type":"error"' not in text:
            self._put(key, inner, is_stream=True, text=text)

    def _put(self, key: bytes, inner: str, is_stream: bool, text: str) -> None:
        usage = current()
        counts = {"prompt_tokens": usage.prompt_tokens, "new_tokens": usage.new_tokens}
        kept = {"number": inner, "is_stream": is_stream, "text": text, **counts}
        self.responses.put({key: json.dumps(kept, ensure_ascii=False).encode()})


def restore(found: bytes, number: str, asked: Asked) -> Response:
    """An answer that was kept, with another number: all tokens of its prompt were known."""
    kept = json.loads(found)
    text = kept["text"].replace(kept["number"], number)
    asked.prompt_tokens, asked.cached_tokens = kept["prompt_tokens"], kept["prompt_tokens"]
    if not kept["is_stream"]:
        return with_cached_tokens(JSONResponse(json.loads(text)), lambda: asked.cached_tokens)

    async def events() -> AsyncIterator[str]:
        yield text

    return with_cached_tokens(StreamingResponse(events(), media_type="text/event-stream"), lambda: asked.cached_tokens)
