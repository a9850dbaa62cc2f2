"""The task of `trine study sequences`: texts without their vowels, and the same texts with them, in characters."""

# Shapes: B batch, S source characters, T target characters.

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from trine.modeling.checks.ids import IGNORE_INDEX


PADDING, BEGIN, END = range(3)
FIRST = 3  # id of the first character
CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789+-./,()"
VOCABULARY = FIRST + len(CHARACTERS)
LONGEST = 24
OTHERS = re.compile(f"[^{re.escape(CHARACTERS)}]+")
VOWELS = re.compile("[aeiou]+")


def cut_texts(texts: Sequence[str], generator: np.random.Generator) -> list[str]:
    """The beginning of each text, in small letters: as many whole words as go into a length drawn from 1 to LONGEST.

    Where not even the first word does, it is cut.
    """
    found = []
    for text, length in zip(texts, generator.integers(1, LONGEST + 1, len(texts)), strict=True):
        clean = " ".join(OTHERS.sub("", text.lower()).split()) or "a"
        whole = len(clean) <= length or clean[length] == " "
        found.append(clean[:length] if whole or " " not in clean[:length] else clean[:length].rpartition(" ")[0])
    return found


def collate(texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Sources (B, S) with their mask, and labels (B, T); both end with END."""
    sources = [encode(VOWELS.sub("", text)) for text in texts]
    input_ids = pad_sequence(sources, batch_first=True, padding_value=PADDING)
    labels = pad_sequence([encode(text) for text in texts], batch_first=True, padding_value=IGNORE_INDEX)
    return {"input_ids": input_ids, "attention_mask": (input_ids != PADDING).long(), "labels": labels}


def encode(text: str) -> torch.Tensor:
    """The ids of a text, with END."""
    return torch.tensor([*(FIRST + CHARACTERS.index(character) for character in text), END])


def decode(ids: torch.Tensor) -> list[str]:
    """The texts of generated ids (B, T)."""
    return ["".join(CHARACTERS[number - FIRST] for number in row if number >= FIRST) for row in ids.tolist()]


def distance(text: str, other: str) -> int:
    """The least number of characters to insert, delete or replace that turns a text into the other (Levenshtein)."""
    costs = [*range(len(other) + 1)]
    for place, character in enumerate(text, 1):
        row = [place]
        for column, wanted in enumerate(other, 1):
            replaced = costs[column - 1] + (character != wanted)
            row.append(min(costs[column] + 1, row[-1] + 1, replaced))
        costs = row
    return costs[-1]
