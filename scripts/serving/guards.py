"""Guards before the application: who may ask, how much they may send, and whether the server still answers."""

import hmac
from collections.abc import Collection
from typing import Any

from starlette.exceptions import HTTPException

from trine.scripts.serving.errors import error_response
from trine.scripts.serving.request_checks import host_of, is_allowed


OPEN_PATHS = ("/health",)  # asked by those that watch the server, which have no key


def header(scope: Any, name: str) -> str | None:
    """The value of a header, or None."""
    return next((value.decode("latin-1") for key, value in scope.get("headers", ()) if key == name.encode()), None)


class AllowedHosts:
    """Refuses requests that name a foreign host, a sign of DNS rebinding by a page."""

    def __init__(self, app: Any, names: Collection[str], any_address: bool):
        self.app, self.names, self.any_address = app, names, any_address

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        host = header(scope, "host")
        if host is not None and not is_allowed(host_of(host), self.names, self.any_address):
            message = f"Host '{host}' is not one of {sorted(self.names)}: start with --allowed_hosts NAME."
            await error_response(403, message)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class ApiKeys:
    """Refuses requests without one of the keys, `Authorization: Bearer KEY`, except for the state of health."""

    def __init__(self, app: Any, keys: Collection[str]):
        self.app, self.keys = app, [key.encode() for key in keys]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_open = scope["type"] != "http" or scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS"
        if is_open or self.knows(header(scope, "authorization")):
            await self.app(scope, receive, send)
            return
        message = "The request needs an API key of this server: 'Authorization: Bearer KEY'."
        response = error_response(401, message, "invalid_api_key", WWW_Authenticate="Bearer")
        await response(scope, receive, send)

    def knows(self, authorization: str | None) -> bool:
        """Whether a header names a key. It takes as long for each key that is wrong."""
        scheme, _, given = (authorization or "").partition(" ")
        found = [hmac.compare_digest(key, given.strip().encode("latin-1")) for key in self.keys]
        return scheme.lower() == "bearer" and any(found)


class BodyLimit:
    """Refuses bodies of more than so many bytes, by what they say of themselves and by what comes."""

    def __init__(self, app: Any, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = f"The body has more than max_body={self.most:,} bytes."
        said = header(scope, "content-length")
        if said is not None and said.isdecimal() and int(said) > self.most:
            await error_response(413, message, "body_too_large")(scope, receive, send)
            return
        come = 0

        async def receive_limited() -> Any:
            nonlocal come
            event = await receive()
            come += len(event.get("body", b""))
            if come > self.most:
                raise HTTPException(413, message)
            return event

        await self.app(scope, receive_limited, send)
