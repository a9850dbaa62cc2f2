"""Writes a question with the texts that were found for it as a language model reads them, and reads what it cites."""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .checks import check_count, check_text
from .chunking import sentence_spans
from .hits import Hit


INSTRUCTION = (
    "Answer the question by these sources alone, and name the source of each statement by its number, such as [1]. If "
    "they do not answer it, say so."
)
CITED = re.compile(r"\[(\d{1,4})\]")


@dataclass(frozen=True)
class SourcedPrompt:
    """A question with numbered sources.

    Attributes:
        text: As the model reads it.
        token_ids: Its tokens.
        sources: The texts that are in it, [1] first.
        is_cut: Whether the last one is shortened.
    """

    text: str
    token_ids: list[int]
    sources: list[Hit]
    is_cut: bool


def prompt_with_sources(
    tokenizer: Any, question: str, hits: Sequence[Hit], max_tokens: int, instruction: str = INSTRUCTION
) -> SourcedPrompt:
    """Writes a prompt with as many sources as fit, the best first; one that does not fit whole loses sentences.

    Args:
        tokenizer: Of the model that answers. Its chat template is used, if it has one.
        question: A text.
        hits: As `HybridSearch.search` returns them.
        max_tokens: The most tokens of the prompt.
        instruction: The sentence that stands before the sources.

    Raises:
        ValueError: The question is empty, there is no hit, the chat template refuses a message, or nothing of the
            first source fits.
    """
    check_text("question", question)
    check_count("max_tokens", max_tokens)
    if not hits:
        raise ValueError("hits=[] hold no source to answer by.")

    def write(texts: Sequence[str]) -> tuple[str, list[int]]:
        listed = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(texts, 1))
        return render(tokenizer, f"{instruction}\n\n{listed}\n\nQuestion: {question}")

    texts: list[str] = []
    is_cut = False
    for hit in hits:
        whole = hit.text.strip()
        part = longest(whole, lambda part: len(write([*texts, part])[1]) <= max_tokens, by_words=not texts)
        if part:
            texts.append(part)
        is_cut = part not in ("", whole)
        if part != whole:
            break
    if not texts:
        bare = len(write([])[1])
        raise ValueError(f"max_tokens={max_tokens} has no room for a source: question and instruction take {bare}.")
    text, token_ids = write(texts)
    return SourcedPrompt(text, token_ids, [*hits[: len(texts)]], is_cut)


def render(tokenizer: Any, message: str) -> tuple[str, list[int]]:
    """A message as the model reads it, up to where its answer begins, and its tokens."""
    if tokenizer.chat_template:
        try:
            messages = [{"role": "user", "content": message}]
            text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # of Jinja, which need not be installed
            raise ValueError(f"The chat template refuses the message: {type(error).__name__}: {error}") from error
        return text, [*tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    text = f"{message}\nAnswer:"
    ids = [*tokenizer(text, verbose=False)["input_ids"]]
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id}
    return text, ids[:-1] if len(ids) > 1 and ids[-1] in ends else ids


def longest(text: str, fits: Callable[[str], bool], by_words: bool) -> str:
    """The longest beginning of a text that fits, up to the end of a sentence; "" where none does.

    Args:
        text: The text.
        fits: Whether a beginning fits; if one does, all shorter ones do.
        by_words: Whether it may end after a word, where the first sentence does not fit.
    """
    sentences = [end for _, end in sentence_spans(text)]
    words = [found.end() for found in re.finditer(r"\S+", text)] if by_words else []
    for ends in (sentences, words):
        count = bisect_left(ends, True, key=lambda end: not fits(text[:end].strip()))
        if count:
            return text[: ends[count - 1]].strip()
    return ""


def cited_numbers(answer: str) -> list[int]:
    """The numbers that an answer cites as [1], in the order in which they come first."""
    return [*dict.fromkeys(int(number) for number in CITED.findall(answer))]
