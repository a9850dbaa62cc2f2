"""A decoder as routes of `trine serve`: transformers' handlers, behind checks, limits and a cache of answers."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from jinja2 import TemplateError
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager, TimedModel
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.utils import BaseHandler, Modality

from trine.scripts.serving.asked import current
from trine.scripts.serving.batcher import Batcher
from trine.scripts.serving.generation_checks import read_settings
from trine.scripts.serving.known_answers import KnownAnswers
from trine.scripts.serving.managers import OneModel
from trine.scripts.serving.request_checks import (
    BadRequest,
    check_fields,
    check_input,
    check_messages,
    check_model,
    check_prompt,
    find_room,
)
from trine.scripts.serving.response_cache import ResponseCache, key_of
from trine.scripts.serving.streams import mend_errors, until, until_disconnected
from trine.scripts.serving.usage import with_cached_tokens


# Fields of a request that change nothing in its answer.
IDLE_FIELDS = ("user", "metadata", "model", "store", "service_tier")


class Way(NamedTuple):
    """One of the routes.

    Attributes:
        path: Where it is asked.
        handler: That of transformers.
        count: Checks a request, and counts the tokens of its prompt.
        field: The name of the most tokens to generate.
    """

    path: str
    handler: Any
    count: Callable[[dict], int]
    field: str


class Decoder:
    """A decoder, which chats and continues texts.

    Args:
        name: What clients call it.
        model: Generates.
        tokenizer: Of the model, with its chat template.
        state: What generates, and its limits.
        responses: Keeps answers that are certain.
        identity: Tells the model and its settings from all others.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        state: OneModel,
        responses: ResponseCache | None = None,
        identity: str = "",
    ):
        self.name, self.model, self.tokenizer, self.state = name, model, tokenizer, state
        self.answers = None if responses is None else KnownAnswers(responses)
        self.identity = identity
        self.vocab_size = model.config.get_text_config(decoder=True).vocab_size

    def add_routes(self, app: FastAPI) -> None:
        """Adds /v1/chat/completions, /v1/completions and /v1/responses."""
        manager, tokenizer = ModelManager(), self.tokenizer
        manager.force_model = self.name
        manager.loaded_models[manager.process_model_name(self.name)] = TimedModel(self.model, -1, tokenizer)
        options = {"model_manager": manager, "generation_state": self.state}
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

        chats, texts = ChatCompletionHandler(**options), CompletionHandler(**options)
        for way in (
            Way("/v1/chat/completions", chats, count_messages, "max_completion_tokens"),
            Way("/v1/completions", texts, count_prompt, "max_tokens"),
            Way("/v1/responses", items, count_input, "max_output_tokens"),
        ):
            self._add_route(app, way)

    def _add_route(self, app: FastAPI, way: Way) -> None:
        @app.post(way.path)
        async def answer(request: Request, body: dict):
            current()  # for the thread, too
            check_model(body, self.name)
            # A thread, since a long text is tokenized for some time.
            await asyncio.to_thread(self.prepare, body, way)
            given = request.headers.get("x-request-id") or str(uuid4())
            if self.answers is None:
                return await self.generate(request, body, way, given)
            key = self.key(body, way)
            return await self.answers.answer(key, given, partial(self.generate, request, body, way))

    def prepare(self, body: dict, way: Way) -> None:
        """Checks a request, and gives it the room that there is."""
        settings = read_settings(body, self.vocab_size)
        given = {"max_tokens": settings.get("max_new_tokens"), **body}
        check_fields(given)
        default = max(1024, self.model.generation_config.max_new_tokens or 0)  # that of the handlers
        asked = next((given[name] for name in (way.field, "max_tokens") if given.get(name) is not None), None)
        room = self.find_room(way.count(body), asked)
        if asked is None and room is not None:
            body[way.field] = min(default, room)
        body.setdefault("stream", False)  # the handler of responses would stream
        if isinstance(self.state.manager, Batcher):
            current().seed = body.pop("seed", None)  # the handlers would set the one seed that all share

    def find_room(self, tokens: int, asked: int | None) -> int | None:
        """The number of tokens that can be written after a prompt, or for a source; raises a BadRequest."""
        source, target = getattr(self.model, "position_limits", lambda: (None, None))()
        most = self.state.limits.max_tokens
        if not self.model.config.is_encoder_decoder:
            return find_room(tokens, asked, target, most)
        find_room(tokens, None, source, most)
        rooms = [find_room(1, asked, target), find_room(tokens, asked, None, most)]
        return min((room for room in rooms if room is not None), default=None)

    def key(self, body: Mapping[str, Any], way: Way) -> bytes | None:
        """All that a request's answer depends on; None where chance does, too."""
        settings = way.handler._build_generation_config({**body}, self.model.generation_config)
        settings, _ = self.model._prepare_generation_config(settings)
        if settings.do_sample and current().seed is None:
            return None
        fields = {name: value for name, value in body.items() if name not in IDLE_FIELDS and value is not None}
        return key_of(self.identity, way.path, fields, current().seed)

    async def generate(self, request: Request, body: dict, way: Way, number: str) -> Response:
        """The answer, or a stream of it, within the time that a request has."""
        asked, seconds = current(), self.state.limits.timeout
        left = None if seconds is None else max(0.0, seconds - asked.seconds)
        made = way.handler.handle_request(body, number)
        response = await until_disconnected(request, made, left, seconds)
        if isinstance(response, StreamingResponse):
            events = mend_errors(response.body_iterator)
            if seconds is not None:
                events = until(events, max(0.0, seconds - asked.seconds), seconds)
            response.body_iterator = events
        if self.state.prefix_cache is not None:
            response = with_cached_tokens(response, lambda: asked.cached_tokens)
        return response


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
