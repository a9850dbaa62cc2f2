"""How a tokenizer writes words: in one piece or several."""

import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple


BLANKS = ("▁", "Ġ", " ")  # that pieces at the beginning of a word begin with, by the tokenizer's way to write them
# First words of the Unicode names of characters that are written without blanks between words.
UNSPACED = {"CJK", "HIRAGANA", "KATAKANA", "KHMER", "LAO", "MYANMAR", "THAI"}


class Pieces(NamedTuple):
    """A word or sentence as a model reads it.

    Args:
        ids: All tokens, special ones too.
        places: Those of the word, as indices of `ids`.
    """

    ids: list[int]
    places: list[int]


def is_unspaced(sign: str) -> bool:
    """Whether a character belongs to a script that is written without blanks between words, such as Chinese."""
    return unicodedata.name(sign, "").partition(" ")[0].partition("-")[0] in UNSPACED


class Spelling:
    """Writes words as a tokenizer does within a text: after a blank, or in Chinese and its like without one."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.blank = " " if not self._opens("a") and self._opens(" a") else ""

    def _opens(self, text: str) -> bool:
        tokens = self.tokenizer.convert_ids_to_tokens(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return bool(tokens) and tokens[0].startswith(BLANKS)

    def pieces(self, words: Sequence[str], special: bool = False) -> list[Pieces]:
        """The tokens of each word alone, with special ones around it where `special` says so."""
        texts = [word if is_unspaced(word[0]) else self.blank + word for word in words]
        options = {"add_special_tokens": special, "return_special_tokens_mask": True, "return_attention_mask": False}
        encoded = self.tokenizer(texts, **options) if texts else {"input_ids": [], "special_tokens_mask": []}
        rows = zip(words, encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
        # Unknown tokens count as special where a tokenizer has only lists of them.
        unknown = self.tokenizer.unk_token_id
        return [self._own(w, ids, [n for n, s in enumerate(m) if not s or ids[n] == unknown]) for w, ids, m in rows]

    def _own(self, word: str, ids: list[int], places: list[int]) -> Pieces:
        """Leaves out the blank that some tokenizers put before every text, where the script has none."""
        if len(places) > 1 and is_unspaced(word[0]) and self.tokens([ids[places[0]]])[0] in BLANKS:
            places = places[1:]
        return Pieces(ids, places)

    def spells(self, row: Pieces) -> bool:
        """Whether all of a word is known: it has pieces, and none is the token of what is unknown."""
        return bool(row.places) and self.tokenizer.unk_token_id not in [row.ids[place] for place in row.places]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Tokens as the vocabulary writes them."""
        return self.tokenizer.convert_ids_to_tokens([*ids])

    def known(self) -> list[str]:
        """The words that are one token each, in the order of the vocabulary."""
        special = {*self.tokenizer.all_special_ids}
        ids = [index for index in range(len(self.tokenizer)) if index not in special]
        texts = dict(zip(ids, map(str.strip, self.tokenizer.batch_decode([[index] for index in ids])), strict=True))
        words = [*dict.fromkeys(filter(_is_word, texts.values()))]
        spelt = {word: [row.ids[n] for n in row.places] for word, row in zip(words, self.pieces(words), strict=True)}
        # A piece that continues a word may have the text of one that begins it: `spelt` tells them apart.
        whole = {row[0]: word for word, row in spelt.items() if len(row) == 1 and texts.get(row[0]) == word}
        return [whole[index] for index in ids if index in whole]


def _is_word(text: str) -> bool:
    return any(map(str.isalnum, text)) and not any(map(str.isspace, text)) and "\ufffd" not in text


def near_words(word: str, words: Iterable[Any], most: int = 3) -> list[str]:
    """Known words that are written much like another."""
    length = len(word)
    lower = {known.lower(): known for known in words if abs(len(known) - length) <= 2}
    return [lower[name] for name in get_close_matches(word.lower(), lower, n=most, cutoff=0.6)]


def unknown(word: str, words: Iterable[Any]) -> ValueError:
    """The error that names a word that is not known, and known ones that are near."""
    near = near_words(word, words)
    hint = f" Near words that are known: {', '.join(near)}." if near else ""
    return ValueError(f"The word {word!r} is unknown.{hint}")
