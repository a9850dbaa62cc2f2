"""Labels of words, carried over to the pieces that a tokenizer cuts them into, and back."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from ...modeling.checks.ids import IGNORE_INDEX


class WordPieces(NamedTuple):
    """Which pieces of a text are of which words, and which of them carry the words' labels.

    A word's label is carried by the first of its pieces that is more than a blank: SentencePiece cuts a character that
    stands alone into "▁" and itself. A piece that several words share has one label, that of the first of them.

    Attributes:
        parts: Of each piece, the words of which it has a part; of special tokens, none.
        carriers: Of each word, the piece that carries its label; None if the word was cut off, or has no piece.
        blanks: The pieces of several-piece words that are nothing but a blank.
    """

    parts: list[range]
    carriers: list[int | None]
    blanks: set[int]

    @classmethod
    def find(
        cls,
        inputs: Any,
        row: int,
        words: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        delimiter: str | None = None,
    ) -> "WordPieces":
        """The pieces of the words of one text, in what a fast tokenizer returned.

        Args:
            inputs: The `BatchEncoding`: of lists of words (`is_split_into_words=True`), or of texts that are words
                joined by `delimiter`.
            row: Which text.
            words: Its words.
            delimiter: What stands between the words in the text; None for lists of words.
        """
        parts = (
            [range(0) if word is None else range(word, word + 1) for word in inputs.word_ids(row)]
            if delimiter is None
            else words_at(inputs.encodings[row].offsets, words, delimiter)
        )
        pieces: list[list[int]] = [[] for _ in words]
        for piece, part in enumerate(parts):
            for word in part:
                pieces[word].append(piece)
        is_blank = partial(is_blank_piece, tokenizer, inputs["input_ids"][row])
        blanks = {piece for several in pieces if len(several) > 1 for piece in several if is_blank(piece)}
        carriers = [
            next((p for p in several if p not in blanks), several[0] if several else None) for several in pieces
        ]
        return cls(parts, carriers, blanks)

    def labels(self, tags: Sequence[str], label2id: Mapping[str, int], label_all: bool = False) -> list[int]:
        """The label of each piece: of carriers that of their word's tag, -100 of others and of special tokens.

        Args:
            tags: The tag of each word, in the scheme BIO or without one.
            label2id: Index of each tag.
            label_all: Whether others are labelled too. They go on with the first word of which they have a part,
                inside an entity that it begins, because no second one begins there. A blank before a word is inside
                an entity only if the word goes on with one, and otherwise "O", if there is such a tag.
        """
        labels = [IGNORE_INDEX] * len(self.parts)
        if label_all:
            for piece, part in enumerate(self.parts):
                if part:
                    before = outside if piece in self.blanks else inside
                    labels[piece] = label2id[before(tags[part[0]], label2id)]
        for tag, carrier in reversed([*zip(tags, self.carriers, strict=True)]):  # the first word has the last say
            if carrier is not None:
                labels[carrier] = label2id[tag]
        return labels

    def tags(self, carried: Sequence[str], known: Mapping[str, int]) -> list[str | None]:
        """The tag of each word by those of the carriers, None for a word without one.

        Args:
            carried: One for each carrier, in the order of the text.
            known: The tags that there are.
        """
        order = sorted({carrier for carrier in self.carriers if carrier is not None})
        by_piece = dict(zip(order, carried, strict=True))
        tags: list[str | None] = []
        previous = None
        for carrier in self.carriers:
            tag = None if carrier is None else by_piece[carrier]
            tags.append(inside(tag, known) if tag is not None and carrier == previous else tag)
            previous = carrier
        return tags


def words_at(offsets: Sequence[tuple[int, int]], words: Sequence[str], delimiter: str) -> list[range]:
    """Of each piece with these places in the joined text, the words of which it has a part."""
    parts, first = [], 0
    starts = [0]
    for word in words:
        starts.append(starts[-1] + len(word) + len(delimiter))
    for start, end in offsets:
        if start == end:  # a special token
            parts.append(range(0))
            continue
        while first < len(words) and starts[first] + len(words[first]) <= start:
            first += 1
        last = first
        while last < len(words) and starts[last] < end:
            last += 1
        parts.append(range(first, last))
    return parts


def is_blank_piece(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], piece: int) -> bool:
    """Whether a piece is nothing but a blank."""
    return not str(tokenizer.decode([ids[piece]])).strip()


def inside(tag: str, known: Mapping[str, int]) -> str:
    """I-X for B-X, if that is known, and any other tag itself."""
    continued = f"I-{tag[2:]}"
    return continued if tag.startswith("B-") and continued in known else tag


def outside(tag: str, known: Mapping[str, int]) -> str:
    """O for B-X, if that is known, and any other tag itself."""
    return "O" if tag.startswith("B-") and "O" in known else tag
