"""Checks the fields of a request for embeddings or for a ranking, before anything is computed."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from trine.configuration.patterns import suggest
from trine.scripts.serving.request_checks import BadRequest


MOST_INPUTS = 2048  # of OpenAI's
MOST_DOCUMENTS = 1000
EMBEDDING_FIELDS = ("model", "input", "encoding_format", "dimensions", "user", "input_type", "truncate")
RERANK_FIELDS = ("model", "query", "documents", "top_n", "return_documents")
ENCODINGS = ("float", "base64")
INPUT_TYPES = ("query", "document")


def check_known(body: Mapping[str, Any], fields: Collection[str]) -> None:
    """Raises a BadRequest for a field that has no meaning here."""
    for name in body:
        if name not in fields:
            raise BadRequest(f"{name!r} is not one of the fields {[*fields]}.{suggest(name, fields)}", name)


def check_flag(body: Mapping[str, Any], name: str) -> bool:
    """The value of a field that is true or false; false where it is left out."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name}={value!r} must be true or false.", name)
    return bool(value)


def check_choice(body: Mapping[str, Any], name: str, choices: Sequence[str], default: str | None) -> str | None:
    """The value of a field that has choices."""
    value = body.get(name)
    if value is not None and value not in choices:
        raise BadRequest(f"{name}={value!r} is not one of {[*choices]}.", name)
    return default if value is None else value


def check_size(body: Mapping[str, Any], name: str, most: int | None = None) -> int | None:
    """The value of a field that is a whole number of at least 1, and at most `most`."""
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise BadRequest(f"{name}={value!r} must be a whole number of at least 1.", name)
    if value is not None and most is not None and value > most:
        raise BadRequest(f"{name}={value} is more than the {most} numbers of the model's embeddings.", name)
    return value


def shown(value: Any) -> str:
    """A value in a message, or its beginning and type where it is long."""
    text = repr(value)
    return text if len(text) < 80 else f"{text[:60]}... of type {type(value).__name__}"


def check_text(value: Any, name: str) -> str:
    """A text that is not empty and holds whole characters."""
    field = name.partition("[")[0]
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name}={shown(value)} must be a text that is not empty.", field)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"{name} holds half a character: {error}", field) from error
    return value


def check_input(body: Mapping[str, Any], vocab_size: int) -> list[str] | list[list[int]]:
    """The texts, or the token ids of texts, to embed."""
    value = body.get("input")
    if isinstance(value, str) or (isinstance(value, list) and value and all(_is_id(each) for each in value)):
        value = [value]
    if not isinstance(value, list) or not value:
        raise BadRequest(f"input={shown(value)} must be a text, a list of texts, or token ids, not empty.", "input")
    if len(value) > MOST_INPUTS:
        raise BadRequest(f"input has {len(value):,} items; at most {MOST_INPUTS:,} are embedded at once.", "input")
    if isinstance(value[0], list):
        return [check_ids(each, f"input[{place}]", vocab_size) for place, each in enumerate(value)]
    return [check_text(each, f"input[{place}]") for place, each in enumerate(value)]


def check_ids(value: Any, name: str, vocab_size: int) -> list[int]:
    """A list of token ids."""
    if not isinstance(value, list) or not value or not all(_is_id(each) for each in value):
        raise BadRequest(f"{name} must be a list of token ids that is not empty, as the others are.", "input")
    if bad := next((each for each in value if not 0 <= each < vocab_size), None):
        raise BadRequest(
            f"{name} holds {bad}, which is no token id of the model: they are below {vocab_size}.", "input"
        )
    return value


def check_documents(body: Mapping[str, Any]) -> list[str]:
    """The texts to rank, each given as it is or as {"text": ...}."""
    value = body.get("documents")
    if not isinstance(value, list) or not value:
        raise BadRequest(f"documents={shown(value)} must be a list of at least one text.", "documents")
    if len(value) > MOST_DOCUMENTS:
        raise BadRequest(f"documents are {len(value):,}; at most {MOST_DOCUMENTS:,} are ranked at once.", "documents")
    texts = [each.get("text") if isinstance(each, dict) else each for each in value]
    return [check_text(each, f"documents[{place}]") for place, each in enumerate(texts)]


def check_lengths(lengths: Sequence[int], limit: int | None, name: str, advice: str) -> None:
    """Raises a BadRequest for a text without a token, or with more than the model reads.

    Args:
        lengths: Tokens of each text.
        limit: The most that the model reads; None if there is no limit.
        name: The field that holds the texts.
        advice: What the client can do about a text that is too long.
    """
    for place, length in enumerate(lengths):
        where = f"{name}[{place}]" if len(lengths) > 1 else name
        if not length:
            raise BadRequest(f"{where} has no token.", name)
        if limit is not None and length > limit:
            raise BadRequest(f"{where} has {length:,} tokens, and the model reads {limit:,}: {advice}.", name)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
