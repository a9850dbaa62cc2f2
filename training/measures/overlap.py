"""Words that a written text shares with the expected one."""

import re
from collections import Counter


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, without marks."""
    return re.findall(r"\w+", text.lower())


def word_f1(written: str, expected: str) -> float:
    """F1 of the words of a text (ROUGE-1 without stems): 1 for the same words in any order, 0 for none in common.

    Source: Lin 2004, ROUGE, section 3, with precision and recall alike; Rajpurkar et al. 2016, arXiv 1606.05250.
    """
    found, wanted = Counter(words_of(written)), Counter(words_of(expected))
    both = (found & wanted).total()
    return 2 * both / (found.total() + wanted.total()) if both else 0.0
