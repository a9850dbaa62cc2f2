"""Helpers for training any kind of tokenizer: input checks, and wrapping of the result."""

from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer
from transformers import TokenizersBackend
from transformers.utils import logging

from .special_tokens import SpecialTokens


logger = logging.get_logger(__name__)


def check_texts(texts: Iterable[str]) -> Iterator[str]:
    """The texts as they are, one by one.

    Raises:
        TypeError: at once if `texts` is one string; on the way if one of them is not a string.
        ValueError: at the end if there was no text.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError(
            f"texts={texts[:20]!r}... is one {type(texts).__name__}; pass an iterable of strings, as [text]."
        )
    return _checked(texts)


def _checked(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{number}] is of type {type(text).__name__}, not a string.")
        empty = empty and not text
        yield text
    if empty:
        raise ValueError("texts holds no text: there is nothing to train the tokenizer on.")


def check_vocab_size(vocab_size: int, needed: dict[str, int]) -> None:
    """Raises a ValueError unless `vocab_size` has room for the tokens of `needed`, a number for each description."""
    smallest = sum(needed.values())
    if vocab_size < smallest:
        parts = " and ".join(f"{number} {name}" for name, number in needed.items())
        raise ValueError(f"vocab_size={vocab_size} is below {smallest}, for {parts}.")


def check_min_frequency(min_frequency: int) -> None:
    """Raises a ValueError unless a frequency is at least 1."""
    if min_frequency < 1:
        raise ValueError(f"min_frequency={min_frequency} must be at least 1.")


def wrap_tokenizer(
    tokenizer: Tokenizer,
    special: SpecialTokens,
    vocab_size: int,
    model_max_length: int | None,
    model_input_names: tuple[str, ...] = ("input_ids", "attention_mask"),
) -> TokenizersBackend:
    """The trained tokenizer as transformers' own class, which `AutoTokenizer` loads without code.

    Warns if the text gave fewer tokens than `vocab_size`.
    """
    if tokenizer.get_vocab_size() < vocab_size:
        logger.warning(f"The text gives {tokenizer.get_vocab_size()} tokens, fewer than vocab_size={vocab_size}.")
    options = {} if special.chat_template is None else {"chat_template": special.chat_template}
    return TokenizersBackend(
        tokenizer_object=tokenizer,
        **special.named,
        extra_special_tokens=special.extra,
        model_max_length=model_max_length,
        model_input_names=list(model_input_names),
        clean_up_tokenization_spaces=False,
        **options,
    )
