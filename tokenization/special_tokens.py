"""The tokens that are never split: named ones, language tags and the marks of chat roles."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .chat_templates import find_chat_template


def language_tag(language: str) -> str:
    """The token that asks a translation model for a language, such as `<2zh>` for "zh".

    It stands before the source text, `f"<2zh>{text}"`, for an encoder that reads what is to be written; or before the
    target text, for a decoder that learns to begin with it. That one is then told the language by
    `generate(..., forced_bos_token_id=tokenizer.convert_tokens_to_ids("<2zh>"))`.

    Raises:
        ValueError: the language is not written in ASCII letters, digits, "-" and "_".

    Source: Johnson et al. 2017, arXiv 1611.04558, section 3.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", language):
        raise ValueError(
            f"language_tags has {language!r}; write a language of ASCII letters, digits, '-' and '_', as 'zh-Hans'."
        )
    return f"<2{language}>"


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a tokenizer, and the chat template that uses some of them."""

    named: dict[str, str]  # by tokenizers' names, such as "pad_token"
    extra: list[str]
    chat_template: str | None

    @property
    def tokens(self) -> list[str]:
        """All special tokens once, in the order of their ids."""
        return list(dict.fromkeys([*self.named.values(), *self.extra]))


def collect_special_tokens(
    named: Mapping[str, str],
    extra_special_tokens: Iterable[str],
    language_tags: Iterable[str],
    chat_template: str | None,
    may_be_equal: tuple[str, ...] = (),
) -> SpecialTokens:
    """Check and order the special tokens: the named, the extra, the language tags, the marks of the chat template.

    A mark that is given under another name too, say as `eos_token`, is that one token.

    Raises:
        TypeError: a list of texts is one string.
        ValueError: a token is empty or given twice, a language is ill-formed, or there is no such chat template.
    """
    template = None if chat_template is None else find_chat_template(chat_template)
    extra = _as_list("extra_special_tokens", extra_special_tokens)
    given = [*extra, *map(language_tag, _as_list("language_tags", language_tags))]
    tokens = [*dict.fromkeys(named[name] for name in may_be_equal)]
    tokens += [token for name, token in named.items() if name not in may_be_equal] + given
    duplicates = sorted({token for token in tokens if tokens.count(token) > 1})
    if duplicates:
        exception = f"; only {' and '.join(may_be_equal)} may be the same token" if may_be_equal else ""
        values = ", ".join(f"{name}={token!r}" for name, token in named.items())
        raise ValueError(
            f"Special tokens {duplicates} are given twice{exception} (got {values}, extra_special_tokens and "
            f"language tags {given})."
        )
    if "" in tokens:
        raise ValueError(f"A special token is empty: {tokens}.")
    marks = [mark for mark in (template.marks if template else ()) if mark not in tokens]
    return SpecialTokens(dict(named), [*given, *marks], template.text if template else None)


def _as_list(name: str, values: Iterable[str]) -> list[str]:
    if isinstance(values, str):
        raise TypeError(f"{name}={values!r} is one string; pass a list of strings.")
    return list(values)
