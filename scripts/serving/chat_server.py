"""The server of `trine serve`: transformers' handlers for a decoder, behind checks, with OpenAI's form of errors."""

import asyncio
import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event
from types import SimpleNamespace
from typing import Any, Protocol
from uuid import uuid4

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response, StreamingResponse
from jinja2 import TemplateError
from starlette.exceptions import HTTPException
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager, TimedModel
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.utils import (
    BaseHandler,
    CBGenerateManager,
    CBWorkerDeadError,
    GenerateManager,
    GenerationState,
    Modality,
)

from trine.generation.prefixes.prefix_cache import PrefixCache
from trine.scripts.serving.request_checks import (
    BadRequest,
    check_fields,
    check_input,
    check_messages,
    check_prompt,
    find_room,
    host_of,
    is_allowed,
)
from trine.scripts.serving.usage import with_cached_tokens


# The option that serves a path.
OPTIONS = {
    "/v1/chat/completions": "model",
    "/v1/completions": "model",
    "/v1/responses": "model",
    "/v1/embeddings": "embedding_model",
    "/v1/rerank": "rerank_model",
    "/v2/rerank": "rerank_model",
}


class OneByOne(GenerateManager):
    """Generation that ends with the request that asked for it, or when the server closes.

    With a `prefix_cache`, what was read for earlier requests is not read again; `cached_tokens` has the number of such
    tokens for each request that is not answered yet.
    """

    def __init__(self, prefix_cache: PrefixCache | None = None):
        super().__init__()
        self.closing = Event()
        self.prefix_cache = prefix_cache
        self.cached_tokens: dict[str, int] = {}

    def generate_streaming(self, model, processor, inputs, gen_config, request_id, *args, **kwargs):
        """Streams an answer, which ends with its request."""
        model, inputs = self._reader(model, request_id), self._stoppable(inputs, self.closing)
        return super().generate_streaming(model, processor, inputs, gen_config, request_id, *args, **kwargs)

    async def generate_non_streaming(self, model, processor, inputs, gen_config, request_id):
        """Generates an answer, which ends with its request."""
        abandoned = Event()
        model, inputs = self._reader(model, request_id), self._stoppable(inputs, abandoned, self.closing)
        made = super().generate_non_streaming(model, processor, inputs, gen_config, request_id)
        task = asyncio.ensure_future(made)
        try:
            return await asyncio.shield(task)  # the thread that generates sets its result in any case
        except asyncio.CancelledError:
            abandoned.set()
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    def _reader(self, model: Any, request_id: str) -> Any:
        """The model, or an object whose `generate` begins where the prefix cache ends."""
        cache = self.prefix_cache
        if cache is None:
            return model

        def generate(stopping_criteria: list, **inputs: Any) -> Any:
            def note(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
                self.cached_tokens[request_id] = cache.cached_tokens  # before the stream ends
                return torch.zeros(ids.shape[:1], device=ids.device, dtype=torch.bool)

            return cache.generate(model, stopping_criteria=[*stopping_criteria, note], **inputs)

        return SimpleNamespace(generate=generate)

    @staticmethod
    def _stoppable(inputs: Mapping[str, Any], *ends: Event) -> dict[str, Any]:
        """The arguments of `generate`, which then stops after the token at which one of the events is set."""

        def stop(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            return torch.full(ids.shape[:1], any(end.is_set() for end in ends), device=ids.device, dtype=torch.bool)

        return {**inputs, "stopping_criteria": [stop]}


class Together(CBGenerateManager):
    """Continuous batching in which a request that is abandoned leaves the batch."""

    async def generate_non_streaming(self, model, processor, inputs, gen_config, request_id):
        """Generates an answer; an abandoned request leaves the batch."""
        try:
            return await super().generate_non_streaming(model, processor, inputs, gen_config, request_id)
        except asyncio.CancelledError:
            if self._cb is not None:
                self._cb.cancel_request(request_id)
            raise


class OneModel(GenerationState):
    """transformers' state of generation, with one manager for the one model."""

    def __init__(self, continuous_batching: bool, options: dict[str, Any], prefix_cache: PrefixCache | None = None):
        config = ContinuousBatchingConfig(**options) if options else None
        super().__init__(continuous_batching, cb_config=config)
        self.manager = Together(config) if continuous_batching else OneByOne(prefix_cache)
        if isinstance(self.manager, Together):
            self._cb_manager = self.manager  # /health looks at it

    def get_manager(self, model_id: str, use_cb: bool = False) -> Any:
        """Returns the one manager, whatever model is named."""
        return self.manager


class AllowedHosts:
    """Refuses requests that name a foreign host, a sign of DNS rebinding by a page."""

    def __init__(self, app: Any, names: Collection[str], any_address: bool):
        self.app, self.names, self.any_address = app, names, any_address

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = ((key.decode("latin-1"), value.decode("latin-1")) for key, value in scope.get("headers", ()))
        for name, value in given:
            if name == "host" and not is_allowed(host_of(value), self.names, self.any_address):
                message = f"Host '{value}' is not one of {sorted(self.names)}: start with --allowed_hosts NAME."
                await JSONResponse(error_body(403, message), 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def error_body(status: int, message: str, field: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": field, "code": None}}


class Server(uvicorn.Server):
    """Prints when it listens; a signal ends what is being generated, so that it closes at once."""

    def __init__(self, app: Any, host: str, port: int, log_level: str, welcome: str, state: OneModel):
        super().__init__(uvicorn.Config(app, host, port, log_level=log_level, timeout_graceful_shutdown=2))
        self.welcome, self.state = welcome, state

    async def startup(self, sockets: Any = None) -> None:
        """Begins to listen, and prints the address."""
        await super().startup(sockets)
        if self.started:
            print(self.welcome, flush=True)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Ends what is being generated, and the server."""
        super().handle_exit(sig, frame)
        if isinstance(self.state.manager, OneByOne):
            self.state.manager.closing.set()


class Served(Protocol):
    """A model with the routes that ask it, under the name that clients call it by."""

    name: str

    def add_routes(self, app: FastAPI) -> None:
        """Adds its routes."""


@dataclass
class Decoder:
    """A decoder, which chats and continues texts. `state` generates."""

    name: str
    model: Any
    tokenizer: Any
    state: OneModel

    def add_routes(self, app: FastAPI) -> None:
        """Adds /v1/chat/completions, /v1/completions and /v1/responses."""
        manager, tokenizer = ModelManager(), self.tokenizer
        manager.force_model = self.name
        manager.loaded_models[manager.process_model_name(self.name)] = TimedModel(self.model, -1, tokenizer)
        options = {"model_manager": manager, "generation_state": self.state}
        chats, texts = ChatCompletionHandler(**options), CompletionHandler(**options)
        items = ResponseHandler(**options)

        def count_prompt(body: dict) -> int:
            check_prompt(body)
            return len(tokenizer(body["prompt"])["input_ids"])

        def count_messages(body: dict) -> int:
            check_messages(body)
            return len(render(tokenizer, lambda: body["messages"], body))

        def count_input(body: dict) -> int:
            check_input(body)
            return len(render(tokenizer, lambda: items._normalize_input(body), body))

        for path, handler, count, field in (
            ("/v1/chat/completions", chats, count_messages, "max_completion_tokens"),
            ("/v1/completions", texts, count_prompt, "max_tokens"),
            ("/v1/responses", items, count_input, "max_output_tokens"),
        ):
            _add_route(app, path, handler, count, field, self)


def make_app(served: Sequence[Served], state: OneModel, any_origin: bool = False) -> FastAPI:
    """The application that serves models. `state` generates; `any_origin` lets pages of all sites in."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if any_origin:
        app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    _add_errors(app)
    _add_information(app, [each.name for each in served], state)
    for each in served:
        each.add_routes(app)
    _add_unserved(app)
    return app


def _add_route(app: FastAPI, path: str, handler: Any, count: Callable, field: str, decoder: Decoder) -> None:
    model, manager = decoder.model, decoder.state.manager
    limits = getattr(model, "position_limits", lambda: (None, None))

    @app.post(path)
    async def answer(request: Request, body: dict):
        given = {"max_tokens": read_settings(body).get("max_new_tokens"), **body}
        check_fields(given)
        default = max(1024, model.generation_config.max_new_tokens or 0)  # that of the handlers
        asked = next((given[name] for name in (field, "max_tokens") if given.get(name) is not None), None)
        room = find_room(count(body), asked, limits()[1])
        if asked is None and room is not None:
            body[field] = min(default, room)
        body.setdefault("stream", False)  # the handler of responses would stream
        number = request.headers.get("x-request-id") or str(uuid4())
        response = await until_disconnected(request, handler.handle_request(body, number))
        if isinstance(response, StreamingResponse):
            response.body_iterator = mend_errors(response.body_iterator)
        if isinstance(manager, OneByOne) and manager.prefix_cache is not None:
            response = with_cached_tokens(response, partial(manager.cached_tokens.pop, number, 0))
        return response


def read_settings(body: dict) -> dict[str, Any]:
    """The `generation_config` of a request, which `transformers chat` sends as JSON; raises a `BadRequest`."""
    try:
        settings = json.loads(body.get("generation_config") or "{}")
        GenerationConfig(**settings)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"generation_config cannot be read: {error}", "generation_config") from error
    return settings


def render(tokenizer: Any, messages: Callable[[], list[dict]], body: dict) -> list[int]:
    """Tokens of `messages()` by the chat template.

    Raises:
        BadRequest: There is no template, or it refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise BadRequest("The model has no chat template: ask /v1/completions, or start with --chat_template chatml.")
    try:
        plain = BaseHandler.get_processor_inputs_from_messages(messages(), Modality.LLM)
        options = {"add_generation_prompt": True, "tools": body.get("tools"), "return_dict": True}
        encoded: Any = tokenizer.apply_chat_template(plain, **options, **(body.get("chat_template_kwargs") or {}))
    except (TemplateError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadRequest(f"The chat template cannot write the messages: {reason}", "messages") from error
    return encoded["input_ids"]


async def until_disconnected(request: Request, answer: Coroutine[Any, Any, Response]) -> Response:
    """Returns the response of `answer`, which is cancelled if the client goes away."""

    async def wait_for_end() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, end = asyncio.ensure_future(answer), asyncio.ensure_future(wait_for_end())
    try:
        await asyncio.wait((task, end), return_when=asyncio.FIRST_COMPLETED)
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


def _add_errors(app: FastAPI) -> None:
    """Gives every error OpenAI's form, with the reason."""

    def answer_with(status: int, describe: Callable[[Any], str] = str) -> Callable[[Request, Any], Any]:
        async def respond(request: Request, error: Any) -> JSONResponse:
            code = getattr(error, "status_code", status)
            return JSONResponse(error_body(code, describe(error), getattr(error, "field", None)), code)

        return respond

    app.add_exception_handler(HTTPException, answer_with(500, lambda error: str(error.detail)))
    app.add_exception_handler(RequestValidationError, answer_with(400, lambda _: "The body must be a JSON object."))
    app.add_exception_handler(ValueError, answer_with(400))  # a BadRequest, or what `generate` refuses
    app.add_exception_handler(CBWorkerDeadError, answer_with(503))
    app.add_exception_handler(
        Exception, answer_with(500, lambda error: f"{type(error).__name__}: see the server's log")
    )


def _add_unserved(app: FastAPI) -> None:
    """Routes that name the option which would serve them."""

    def add_route(path: str, option: str) -> None:
        @app.post(path)
        async def refuse():
            raise HTTPException(404, f"{path} is not served: start with --{option} FOLDER.")

    there = {getattr(route, "path", "") for route in app.routes}
    for path, option in OPTIONS.items():
        if path not in there:
            add_route(path, option)


def _add_information(app: FastAPI, names: Sequence[str], state: OneModel) -> None:
    """The routes that tell what is served, and whether all is well."""
    card = {"object": "model", "created": int(time.time()), "owned_by": "trine"}

    @app.get("/v1/models")
    async def list_models():
        return {"object": "list", "data": [{"id": name, **card} for name in dict.fromkeys(names)]}

    @app.get("/v1/models/{model:path}")
    async def find_model(model: str):
        check_model(model, 404)
        return {"id": model, **card}

    @app.post("/load_model")
    async def load_model(body: dict):
        """Answers the first question of `transformers chat`: the model is ready."""
        check_model(body.get("model"), 400)
        event = json.dumps({"status": "ready", "model": body["model"], "cached": True})
        return Response(f"data: {event}\n\n", media_type="text/event-stream")

    def check_model(asked: Any, status: int) -> None:
        if asked not in names:
            raise HTTPException(status, f"model={asked!r} is not served, only {' and '.join(map(repr, names))}.")

    @app.get("/health")
    async def tell_health():
        if state.is_cb_alive():
            return {"status": "ok"}
        return JSONResponse({"status": "unhealthy", "reason": "continuous batching has died"}, 503)
