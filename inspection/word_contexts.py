"""One word in several sentences: how near its uses are to each other and to other words, layer by layer."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import normalize

from .word_pieces import BLANKS, Pieces, Spelling, is_unspaced, unknown
from .words import CHUNK, layer_vectors, trunk_of


# Shapes: U uses, N words, L layers, D hidden size.


class WordUse(NamedTuple):
    """A word within a sentence.

    Args:
        sentence: The whole.
        start: Its first character.
        stop: The character after its last.
        pieces: The tokens that hold it, which may reach beyond it.
        states: The mean of their states in each layer (L + 1, D), the input embeddings first.
    """

    sentence: str
    start: int
    stop: int
    pieces: list[str]
    states: torch.Tensor


def word_uses(model: Any, tokenizer: Any, word: str, sentences: Sequence[str]) -> list[WordUse]:
    """Reads a word in sentences.

    Args:
        model: A model of transformers, or a `SentenceTransformer`.
        tokenizer: Its tokenizer, one of those that tell places in a text.
        word: The word, which each sentence holds; where it stands more than once, the first is meant.
        sentences: One or more.

    Raises:
        ValueError: A sentence does not hold the word as a whole word, it is too long, or the tokenizer does not know
            the word or tells no places.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"A {type(tokenizer).__name__} tells no places in a text, which words in sentences need.")
    places = []
    for sentence in sentences:
        if (place := find_word(word, sentence)) is None:
            raise ValueError(f"context={sentence!r} does not hold the word {word!r}.")
        places.append(place)
    spelling = Spelling(tokenizer)
    parts = [_pieces(spelling, word, sentence, place) for sentence, place in zip(sentences, places, strict=True)]
    states = layer_vectors(trunk_of(model), parts)
    uses = []
    for number, (sentence, (start, stop), part) in enumerate(zip(sentences, places, parts, strict=True)):
        pieces = spelling.tokens([part.ids[place] for place in part.places])
        uses.append(WordUse(sentence, start, stop, pieces, states[:, number]))
    return uses


def find_word(word: str, sentence: str) -> tuple[int, int] | None:
    """Where a sentence holds a word as a whole one, with its capitals or else in any; None where it does not."""
    if not word.strip():
        raise ValueError(f"word={word!r} is no word.")
    before = "" if is_unspaced(word[0]) else r"(?<!\w)"
    after = "" if is_unspaced(word[-1]) else r"(?!\w)"
    for flags in (0, re.IGNORECASE):
        if found := re.search(before + re.escape(word) + after, sentence, flags):
            return found.span()
    return None


def _pieces(spelling: Spelling, word: str, sentence: str, place: tuple[int, int]) -> Pieces:
    encoded = spelling.tokenizer(sentence, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids, unknown_id = encoded["input_ids"], spelling.tokenizer.unk_token_id
    spans = zip(encoded["offset_mapping"], encoded["special_tokens_mask"], spelling.tokens(ids), strict=True)
    inside = [
        number
        for number, ((start, stop), special, token) in enumerate(spans)
        if start < place[1] and stop > place[0] and token not in BLANKS and (not special or ids[number] == unknown_id)
    ]
    found = Pieces(ids, inside)
    if not spelling.spells(found):
        raise unknown(word, spelling.known())
    return found


def cosines_between(uses: Sequence[WordUse]) -> torch.Tensor:
    """The cosines of the uses with each other in each layer (L + 1, U, U)."""
    states = normalize(torch.stack([use.states for use in uses], dim=1), dim=-1)
    return states @ states.mT


def cosines_to_words(
    uses: Sequence[WordUse], model: Any, tokenizer: Any, words: Sequence[str], batch_size: int = 64
) -> torch.Tensor:
    """The cosines of the uses with words, each read alone, in each layer (L + 1, U, N).

    Raises:
        ValueError: A word is unknown to the tokenizer.
    """
    spelling, trunk = Spelling(tokenizer), trunk_of(model)
    states = normalize(torch.stack([use.states for use in uses], dim=1), dim=-1)
    found = []
    for start in range(0, len(words), CHUNK):
        parts = spelling.pieces(words[start : start + CHUNK], special=True)
        for word, part in zip(words[start : start + CHUNK], parts, strict=True):
            if not spelling.spells(part):
                raise unknown(word, spelling.known())
        others = normalize(layer_vectors(trunk, parts, batch_size), dim=-1)
        found.append(states @ others.mT)
    return torch.cat(found, dim=-1)
