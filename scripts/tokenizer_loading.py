"""Loading a tokenizer for a model that is to write: what it calls its beginning, its end and its padding."""

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trine.tokenization.text_ends import name_ends


def load_tokenizer(source: str, *, writes: bool = True, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or of the Hub; for a model that writes, `name_ends` names what it needs, and it is
    printed what took whose place.

    Raises:
        ValueError: The model writes, and nothing ends a text.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    if not writes:
        return tokenizer
    try:
        named = name_ends(tokenizer)
    except ValueError as error:
        raise ValueError(f"'{source}': {error}") from error
    for name, token in named.items():
        print(f"The tokenizer '{source}' has no {name}: {token!r} takes its place.")
    return tokenizer
