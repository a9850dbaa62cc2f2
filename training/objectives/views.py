"""Two views of one text, which belong together: pairs to learn embeddings from texts without labels."""

import random
from collections.abc import Callable


SHORTEST, LONGEST = 0.3, 0.7  # share of a text that a crop has
FEWEST_WORDS = 4  # a text of fewer is cropped by characters, as one is that is written without blanks


def keep_twice(text: str, generator: random.Random) -> tuple[str, str]:
    """The text itself, twice: dropout makes the difference.

    Source: Gao et al. 2021, SimCSE, arXiv 2104.08821, section 3.
    """
    return text, text


def crop_twice(text: str, generator: random.Random) -> tuple[str, str]:
    """Two spans of the text, independent of each other, each of 30 to 70 % of its words.

    Source: Izacard et al. 2021, Contriever, arXiv 2112.09118, section 3.2.
    """
    words = text.split()
    units, blank = (words, " ") if len(words) >= FEWEST_WORDS else ([*text.strip()], "")

    def crop() -> str:
        length = max(1, round(generator.uniform(SHORTEST, LONGEST) * len(units)))
        start = generator.randint(0, len(units) - length)
        return blank.join(units[start : start + length]).strip() or text

    return crop(), crop()


VIEWS: dict[str, Callable[[str, random.Random], tuple[str, str]]] = {"dropout": keep_twice, "crops": crop_twice}
