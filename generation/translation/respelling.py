"""Spelling of copied words: a tokenizer that folds case has lost it, but the source still has it."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase


_PIECES = re.compile(r"[^\W_]+|[^\w\s]|_")  # words, and single marks, as tokenizers that fold case divide texts
_SENTENCE_ENDS = {".", "!", "?", ":", "*"}


def folds_case(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer reads capital letters as small ones."""
    small, capital = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("trine", "TRINE"))
    return small == capital


def respell(text: str, source: str) -> str:
    """Spells words of `text` as `source` does, and puts marks between words as close to them as there.

    A capital that only a beginning of a sentence has says nothing about a word. Of several spellings the most frequent
    counts. What the source does not have stays.
    """
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    gaps: dict[tuple[str, str], set[bool]] = defaultdict(set)
    before = ""
    for piece, has_gap, is_first in _read(source):
        name = _fold(piece)
        if not (is_first and piece[1:] == piece[1:].lower() and piece[0].isupper()):
            spellings[name][piece] += 1
        gaps[before, name].add(has_gap)
        before = name
    written, before = [], ""
    for piece, has_gap, _ in _read(text):
        name = _fold(piece)
        if written and has_gap and gaps.get((before, name)) != {False}:
            written.append(" ")
        written.append(max(spellings[name], key=spellings[name].__getitem__) if name in spellings else piece)
        before = name
    return "".join(written)


def _read(text: str) -> Iterator[tuple[str, bool, bool]]:
    """The pieces of a text, whether white space is before each, and whether it begins a line or a sentence."""
    end, before = 0, ""
    for found in _PIECES.finditer(text):
        gap = text[end : found.start()]
        yield found[0], bool(gap), not before or "\n" in gap or bool(gap) and before in _SENTENCE_ENDS
        end, before = found.end(), found[0]


def _fold(piece: str) -> str:
    """Small letters without accents, as a tokenizer that folds case keeps them."""
    letters = unicodedata.normalize("NFD", piece.lower())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))
