"""Tasks of `trine study recall`: synthetic texts whose tokens occur again, far away."""

# Shapes: B batch, N tokens, A answers.

from typing import NamedTuple

import torch

from trine.modeling.checks.ids import IGNORE_INDEX


KEYS, VALUES, NEEDLES = 16, 8, 8
# A needle is a token that says a key and its value: number key * VALUES + value. Then come keys, values and fillers.
FIRST_KEY = KEYS * VALUES
FIRST_VALUE = FIRST_KEY + KEYS
FIRST_FILLER = FIRST_VALUE + VALUES
VOCABULARY = FIRST_FILLER + 32
SYMBOLS = 32  # of texts to copy; the separator comes after them


class Recall(NamedTuple):
    """Texts and the answers in them.

    Attributes:
        input_ids: (B, N).
        labels: (B, N), the answers at their own places, else IGNORE_INDEX.
        distances: (B, A), for each answer from left to right, the number of tokens from its original to the token that
            predicts it.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    distances: torch.Tensor


def needle(size: int, length: int, generator: torch.Generator) -> Recall:
    """Random tokens with eight needles hidden in them, each a key with its value; then each key, and its value.

    Keys of a text differ. Places of needles and the order of the questions are random, so that distances are spread
    over the length.
    Source: multi-query associative recall, Arora et al. 2023, Zoology, arXiv 2312.04927; here with fillers in between,
    and key and value in one token.
    """
    hay = length - 2 * NEEDLES
    ids = torch.randint(FIRST_FILLER, VOCABULARY, (size, length), generator=generator)
    keys = torch.rand(size, KEYS, generator=generator).argsort(dim=1)[:, :NEEDLES]
    values = torch.randint(VALUES, (size, NEEDLES), generator=generator)
    places = torch.rand(size, hay, generator=generator).argsort(dim=1)[:, :NEEDLES]
    ids.scatter_(1, places, keys * VALUES + values)
    ids[:, hay::2], ids[:, hay + 1 :: 2] = FIRST_KEY + keys, FIRST_VALUE + values
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[:, hay + 1 :: 2] = ids[:, hay + 1 :: 2]
    return Recall(ids, labels, torch.arange(hay, length, 2) - places)


def copy(size: int, length: int, generator: torch.Generator) -> Recall:
    """Random tokens, a separator, and the same tokens again, which are the answers. An even `length` loses a token."""
    half = (length - 1) // 2
    text = torch.randint(SYMBOLS, (size, half), generator=generator)
    ids = torch.cat((text, torch.full((size, 1), SYMBOLS), text), dim=1)
    labels = torch.cat((torch.full((size, half + 1), IGNORE_INDEX), text), dim=1)
    return Recall(ids, labels, torch.full((size, half), half))
