"""Errors of `trine serve`: what a client did wrong or has to wait for, in OpenAI's form."""

import math
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from transformers.cli.serving.utils import CBWorkerDeadError

from trine.scripts.serving.request_checks import BadRequest


class Unavailable(Exception):
    """A request that is right, but cannot be answered now.

    Args:
        message: Why.
        status_code: 429, 503 or 504.
        code: A word for programs.
        retry_after: Seconds after which the client may ask again; None where that does not help.
    """

    def __init__(self, message: str, status_code: int, code: str, retry_after: float | None = None):
        super().__init__(message)
        self.status_code, self.code = status_code, code
        self.headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}


def queue_is_full(most: int, option: str = "max_queue") -> Unavailable:
    """The error of a request that finds no place."""
    message = f"{option}={most} requests wait already: ask again later."
    return Unavailable(message, 429, "rate_limit_exceeded", retry_after=1)


def closing() -> Unavailable:
    """The error of a request to a server that ends."""
    return Unavailable("The server is shutting down.", 503, "server_closing", retry_after=5)


def too_late(seconds: float) -> Unavailable:
    """The error of a request that took too long."""
    return Unavailable(f"request_timeout={seconds:g} seconds are over, and the answer is not ready.", 504, "timeout")


def error_body(status: int, message: str, field: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}


def error_response(status: int, message: str, code: str | None = None, **headers: str) -> JSONResponse:
    """The answer with an error."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse(error_body(status, message, code=code), status, named)


def add_errors(app: FastAPI) -> None:
    """Gives every error OpenAI's form, with the reason."""

    def answer_with(status: int, describe: Callable[[Any], str] = str) -> Callable[[Request, Any], Any]:
        async def respond(request: Request, error: Any) -> JSONResponse:
            number = getattr(error, "status_code", status)
            body = error_body(number, describe(error), getattr(error, "field", None), getattr(error, "code", None))
            return JSONResponse(body, number, getattr(error, "headers", None))

        return respond

    app.add_exception_handler(HTTPException, answer_with(500, lambda error: str(error.detail)))
    app.add_exception_handler(RequestValidationError, answer_with(400, lambda _: "The body must be a JSON object."))
    app.add_exception_handler(BadRequest, answer_with(400))
    app.add_exception_handler(Unavailable, answer_with(503))
    app.add_exception_handler(ValueError, answer_with(400))  # what `generate` refuses
    app.add_exception_handler(CBWorkerDeadError, answer_with(503))
    app.add_exception_handler(
        Exception, answer_with(500, lambda error: f"{type(error).__name__}: see the server's log")
    )
