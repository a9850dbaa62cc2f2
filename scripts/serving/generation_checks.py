"""Checks the `generation_config` of a request: what it may set, to which values, and nothing else."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationConfig

from trine.configuration.patterns import suggest
from trine.scripts.serving.request_checks import BadRequest


MOST_BEAMS = 64
Check = Callable[[Any, int], bool]


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def whole(least: int, most: float = math.inf) -> tuple[Check, str]:
    """The rule for a whole number."""
    text = f"a whole number of at least {least}" if most == math.inf else f"a whole number from {least} to {most}"
    return lambda value, vocab_size: is_whole(value) and least <= value <= min(most, 2**31), text


def number(least: float, most: float, is_open: bool = False) -> tuple[Check, str]:
    """The rule for a number from `least`, or above it where the range is open, to `most`."""

    def check(value: Any, vocab_size: int) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return is_number and least <= value <= most and not (is_open and value == least)

    return check, f"a number {'above' if is_open else 'from'} {least:g} to {most:g}"


def is_id(value: Any, vocab_size: int) -> bool:
    """Whether a value is a token id; -1 is none, as some settings have it."""
    return is_whole(value) and -1 <= value < vocab_size


def are_ids(value: Any, vocab_size: int) -> bool:
    """Whether a value is a list of token ids, not empty."""
    return isinstance(value, list) and bool(value) and all(is_id(each, vocab_size) for each in value)


IDS: tuple[Check, str] = (lambda value, size: is_id(value, size) or are_ids(value, size), "a token id, or several")
FLAG: tuple[Check, str] = (lambda value, size: isinstance(value, bool), "true or false")
ID_LIST: tuple[Check, str] = (are_ids, "a list of token ids")
TEXTS: tuple[Check, str] = (
    lambda value, size: (
        bool(value)
        and (
            isinstance(value, str)
            or (isinstance(value, list) and all(isinstance(each, str) and each for each in value))
        )
    ),
    "a text or a list of texts, none of them empty",
)
RULES: dict[str, tuple[Check, str]] = {
    "max_new_tokens": whole(1),
    "max_length": whole(1),
    "min_length": whole(0),
    "min_new_tokens": whole(0),
    "num_beams": whole(1, MOST_BEAMS),
    "top_k": whole(0),
    "no_repeat_ngram_size": whole(0),
    "do_sample": FLAG,
    "early_stopping": FLAG,
    "renormalize_logits": FLAG,
    "remove_invalid_values": FLAG,
    "temperature": number(0, 1000),
    "top_p": number(0, 1, is_open=True),
    "typical_p": number(0, 1, is_open=True),
    "min_p": number(0, 1),
    "epsilon_cutoff": number(0, 1),
    "eta_cutoff": number(0, 1),
    "repetition_penalty": number(0, 1000, is_open=True),
    "length_penalty": number(-1000, 1000),
    "max_time": number(0, 86_400, is_open=True),
    "eos_token_id": IDS,
    "pad_token_id": (is_id, "a token id"),
    "bos_token_id": (is_id, "a token id"),
    "forced_eos_token_id": (lambda value, size: is_id(value, size) and value >= 0, "a token id"),
    "suppress_tokens": ID_LIST,
    "begin_suppress_tokens": ID_LIST,
    "bad_words_ids": (
        lambda value, size: isinstance(value, list) and bool(value) and all(are_ids(each, size) for each in value),
        "a list of lists of token ids",
    ),
    "stop_strings": TEXTS,
}
IGNORED = ("transformers_version", "_from_model_config")


def read_settings(body: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The `generation_config` of a request, which `transformers chat` sends as JSON.

    Raises:
        BadRequest: It cannot be read, sets something that is not served, or sets it to something that has no meaning.
    """
    try:
        settings = json.loads(body.get("generation_config") or "{}")
        config = GenerationConfig(**settings)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadRequest(f"generation_config cannot be read: {error}", "generation_config") from error
    usual = GenerationConfig()
    for name, value in settings.items():
        if name in IGNORED or value is None or (name not in RULES and value == getattr(usual, name, None)):
            continue
        rule = RULES.get(name)
        if rule is None:
            known = hasattr(config, name) and hasattr(usual, name)
            advice = "" if known else suggest(name, RULES)
            raise BadRequest(f"generation_config: {name} is not one of {[*RULES]}.{advice}", "generation_config")
        if not rule[0](value, vocab_size):
            raise BadRequest(f"generation_config: {name}={value!r} must be {rule[1]}.", "generation_config")
    return settings
