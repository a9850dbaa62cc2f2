"""Labels of words, carried over to the pieces that a tokenizer cuts them into."""

from collections.abc import Mapping, Sequence

from ...modeling.checks.ids import IGNORE_INDEX


def label_pieces(
    word_ids: Sequence[int | None], tags: Sequence[str], label2id: Mapping[str, int], label_all: bool = False
) -> list[int]:
    """The label of each piece: the first piece of a word has that of its tag, special tokens and other pieces -100.

    Args:
        word_ids: The word that each piece belongs to, None for special tokens, as a fast tokenizer's encoding tells.
        tags: The tag of each word, in the scheme BIO or without one.
        label2id: Index of each tag.
        label_all: Whether the other pieces of a word are labelled too: as its first, but inside where that begins an
            entity, because no second entity begins there.
    """
    labels, previous = [], None
    for word in word_ids:
        if word is None:
            labels.append(IGNORE_INDEX)
        elif word != previous:
            labels.append(label2id[tags[word]])
        else:
            labels.append(label2id[inside(tags[word], label2id)] if label_all else IGNORE_INDEX)
        previous = word
    return labels


def inside(tag: str, known: Mapping[str, int]) -> str:
    """I-X for B-X, if that is known, and any other tag itself."""
    continued = f"I-{tag[2:]}"
    return continued if tag.startswith("B-") and continued in known else tag
