"""Checks the fields of a request to `trine serve`, in OpenAI's terms, before anything is computed."""

import json
import math
from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit


class BadRequest(ValueError):
    """A request that the client has to change.

    `field` names what is wrong in it, `status_code` answers it, and `code` is a word for programs.
    """

    def __init__(self, message: str, field: str | None = None, status_code: int = 400, code: str | None = None):
        super().__init__(message)
        self.field, self.status_code, self.code = field, status_code, code


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


# What a field must be, and how that is said. A field that is null is as if left out.
COUNT = (lambda value: _is_whole(value) and value >= 1, "a whole number of at least 1")
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": COUNT,
    "max_completion_tokens": COUNT,
    "max_output_tokens": COUNT,
    "temperature": (lambda value: _is_number(value) and value >= 0, "a number of at least 0"),
    "top_p": (lambda value: _is_number(value) and 0 < value <= 1, "a number above 0 and at most 1"),
    "frequency_penalty": (lambda value: _is_number(value) and -1 < value <= 2, "a number above -1 and at most 2"),
    "seed": (lambda value: _is_whole(value) and abs(value) < 2**63, "a whole number of 64 bits"),
    "stop": (lambda value: _is_text(value) or _are_texts(value), "a text or a list of texts, none of them empty"),
    "stream": (lambda value: isinstance(value, bool), "true or false"),
    "logit_bias": (
        lambda value: isinstance(value, dict) and all(k.isdecimal() and _is_number(v) for k, v in value.items()),
        "a mapping of token ids to numbers",
    ),
    "generation_config": (_is_text, "JSON as a text"),
    "suffix": (lambda value: isinstance(value, str), "a text"),
    "tools": (lambda value: isinstance(value, list) and all(isinstance(each, dict) for each in value), "a list"),
    "chat_template_kwargs": (lambda value: isinstance(value, dict), "a mapping"),
}
# What transformers' server would leave out without a word, unless it asks for nothing.
UNSERVED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
}


def check_fields(body: Mapping[str, Any]) -> None:
    """Raises a `BadRequest` for a value that has no meaning, and for one that is not served."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"The request holds half a character: {error}") from error
    for name, (is_right, what) in FIELDS.items():
        value = body.get(name)
        if value is not None and not is_right(value):
            raise BadRequest(f"{name}={value!r} must be {what}.", name)
    for name, neutral in UNSERVED.items():
        value = body.get(name)
        if value is not None and value not in neutral:
            raise BadRequest(f"{name}={value!r} is not served: leave it out.", name)


def check_model(body: Mapping[str, Any], served: str) -> None:
    """Raises a BadRequest, whose status is 404, for another model than the one that is served for this."""
    model = body.get("model")
    if model is not None and model != served:
        message = f"model={model!r} is not served here, only {served!r}."
        raise BadRequest(message, "model", status_code=404, code="model_not_found")


def check_prompt(body: Mapping[str, Any]) -> None:
    """Raises a `BadRequest` unless `prompt` is one text that is not empty."""
    if not _is_text(body.get("prompt")):
        raise BadRequest(f"prompt={body.get('prompt')!r} must be one text that is not empty.", "prompt")


def check_messages(body: Mapping[str, Any]) -> None:
    """Raises a `BadRequest` unless `messages` are a list of at least one {role, content}."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest(f"messages={messages!r} must be a list of at least one message.", "messages")
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not _is_text(message.get("role")):
            raise BadRequest(f"messages[{place}]={message!r} must have a role and a content.", "messages")
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        if content is None and "tool_calls" in message:
            continue
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
            raise BadRequest(f"messages[{place}].content={content!r} must be a text, or parts of text.", "messages")


def check_input(body: Mapping[str, Any]) -> None:
    """Raises a `BadRequest` unless `input` is a text that is not empty, or a list of at least one item."""
    value = body.get("input")
    are_items = isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
    if not (_is_text(value) or are_items):
        raise BadRequest(f"input={value!r} must be a text that is not empty, or a list of messages.", "input")


def find_room(tokens: int, asked: int | None, limit: int | None, most: int | None = None) -> int | None:
    """The number of tokens that can follow `tokens`; None if there is no limit.

    Args:
        tokens: Those of the prompt.
        asked: Those that the request wants; None if it does not say.
        limit: Positions of the model; None for any number.
        most: Tokens of a request, prompt and answer, that the server allows; None for any number.

    Raises:
        BadRequest: There is no token, or no room for those asked for.
    """
    if not tokens:
        raise BadRequest("The text has no token.")
    rooms = []
    if limit is not None:
        rooms.append(limit + 1 - tokens)  # the last token is written, but never read
        if rooms[-1] < (asked or 1):
            raise BadRequest(
                f"The text has {tokens} tokens, and the model {limit} positions: with max_tokens={asked} it would "
                "reach beyond them."
            )
    if most is not None:
        rooms.append(most - tokens)
        if rooms[-1] < (asked or 1):
            raise BadRequest(
                f"The text has {tokens} tokens, and with max_tokens={asked} more it has more than "
                f"max_tokens_per_request={most} of this server."
            )
    return min(rooms, default=None)


def host_of(address: str) -> str | None:
    """The name in `localhost:8000`, `[::1]:8000` or `http://localhost:8000`; None if there is none."""
    try:
        return urlsplit(address if "//" in address else f"//{address}").hostname
    except ValueError:
        return None


def is_allowed(host: str | None, names: Collection[str], any_address: bool) -> bool:
    """Whether a request may name this host.

    By DNS rebinding a page of another site can send requests under a name that leads to this computer, but never under
    a number.
    """
    if host is None:
        return False
    if host in names or "*" in names:
        return True
    try:
        return any_address and ip_address(host) is not None
    except ValueError:
        return False
