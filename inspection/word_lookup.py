"""Words that somebody writes: sums of them, and their keys among vectors."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .word_pieces import Spelling, near_words, unknown
from .words import add_words


if TYPE_CHECKING:
    from gensim.models import KeyedVectors


class Expression(NamedTuple):
    """A sum of words.

    Args:
        plus: Words that are added.
        minus: Words that are subtracted.
    """

    plus: list[str]
    minus: list[str]

    def __str__(self) -> str:
        return " ".join([" + ".join(self.plus), *(f"- {word}" for word in self.minus)])


def parse_expression(text: str) -> Expression:
    """Reads a sum such as `king - man + woman`; signs stand between blanks, and words may hold blanks and hyphens.

    Raises:
        ValueError: It is empty, a word is missing, or none is added.
    """
    signs = re.split(r"(?:^|\s)\s*([+-])(?=\s|$)", text.strip())
    terms = [("+", signs[0]), *zip(signs[1::2], signs[2::2], strict=True)]
    terms = terms[1:] if len(terms) > 1 and not terms[0][1].strip() else terms
    words = [(sign, " ".join(word.split())) for sign, word in terms]
    if not text.strip():
        raise ValueError("expression is empty: name words, such as 'king - man + woman'.")
    if missing := [sign for sign, word in words if not word]:
        raise ValueError(f"expression={text!r} has no word after a {missing[0]!r}.")
    plus, minus = ([word for sign, word in words if sign == wanted] for wanted in "+-")
    if not plus:
        raise ValueError(f"expression={text!r} only subtracts: name a word to add.")
    return Expression(plus, minus)


class Equation(NamedTuple):
    """Two sums that are set equal.

    Args:
        left: One.
        right: The other.
    """

    left: Expression
    right: Expression


def parse_equation(text: str) -> Equation | None:
    """Reads an equation such as `table - chair = mouse - keyboard`; None where there is no sign of equality.

    Raises:
        ValueError: There are several, or a side is no sum.
    """
    sides = re.split(r"(?:^|\s)=(?=\s|$)", text)
    if len(sides) > 2:
        raise ValueError(f"expression={text!r} has {len(sides) - 1} signs of equality, and may have one.")
    if len(sides) == 2 and not all(map(str.strip, sides)):
        side = "after" if sides[0].strip() else "before"
        raise ValueError(f"expression={text!r} has nothing {side} its '='.")
    return Equation(*map(parse_expression, sides)) if len(sides) == 2 else None


class Lookup(NamedTuple):
    """Words that were looked up.

    Args:
        keys: Their keys among the vectors, in order.
        notes: A sentence about each that is not a key as it was written.
    """

    keys: list[str]
    notes: list[str]


def look_up(vectors: "KeyedVectors", words: Sequence[str], model: Any, tokenizer: Any, layer: int | str) -> Lookup:
    """Finds the keys of words; those of several pieces are added to the vectors of a model.

    A tokenizer that knows no capitals leads 'King' to 'king'. Without a tokenizer, vectors are those of a file, which
    a word in other letters may be in.

    Raises:
        ValueError: A word is unknown; near ones are named.
    """
    spelling = None if tokenizer is None else Spelling(tokenizer)
    keys, notes = [], []
    for word in words:
        if not word.strip():
            raise ValueError(f"word={word!r} is no word.")
        key, note = word, ""
        if word not in vectors:
            key, note = _other_case(vectors, word) if spelling is None else _spell(vectors, word, spelling)
        if key not in vectors and spelling is not None:
            add_words(vectors, model, spelling, [key], layer)
        keys.append(key)
        notes += [note] if note else []
    return Lookup(keys, [*dict.fromkeys(notes)])


def _other_case(vectors: "KeyedVectors", word: str) -> tuple[str, str]:
    for other in (word.lower(), word.capitalize(), word.upper()):
        if other in vectors:
            return other, f"{word!r} is not among the vectors; {other!r} takes its place."
    raise unknown(word, vectors.key_to_index)


def _spell(vectors: "KeyedVectors", word: str, spelling: Spelling) -> tuple[str, str]:
    (row,) = spelling.pieces([word])
    ids = [row.ids[place] for place in row.places]
    if len(ids) == 1:
        same = spelling.tokenizer.decode(ids).strip()
        return (same, f"{word!r} is {same!r} to this tokenizer.") if same in vectors else (word, "")
    tokens = " ".join(spelling.tokens(ids))
    near = near_words(word, vectors.key_to_index, 1)
    hint = f" A near word of one piece: {near[0]!r}." if near else ""
    return word, f"{word!r} is {len(ids)} pieces ({tokens}), whose mean it has.{hint}"
