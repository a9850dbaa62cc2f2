"""Splits texts into the words that BM25 counts; Chinese and Japanese, which have no spaces, in one of two ways."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..configuration.patterns import check_choice


# Hiragana, katakana, Chinese characters.
UNSPACED = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff" + "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
UNSPACED += "\U00020000-\U0003ffff"
# A run of such characters, or a word of at least two letters or digits.
RUN = re.compile(rf"[{UNSPACED}]+|[^\W{UNSPACED}]{{2,}}")
# The 33 English words of Lucene, and Chinese ones of the same kind.
ENGLISH = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
)
STOP_WORDS = frozenset([*ENGLISH.split(), *"的地得了着过吗呢吧啊在是和与及或也都而但这那就把被"])
Span = tuple[str, int, int]  # a word, and where it begins and ends in the text


def _bigrams(run: str) -> Iterator[tuple[str, int]]:
    """Every two neighbouring characters, or a single one."""
    for start in range(max(1, len(run) - 1)):
        yield run[start : start + 2], start


def _jieba(run: str) -> Iterator[tuple[str, int]]:
    """The words that jieba finds."""
    try:
        import jieba
    except ImportError as error:
        raise ImportError("chinese='jieba' needs the package jieba: pip install 'trine[chinese]'.") from error
    jieba.setLogLevel("WARNING")
    for word, start, _ in jieba.tokenize(run):
        yield word, start


CHINESE: dict[str, Callable[[str], Iterator[tuple[str, int]]]] = {"bigrams": _bigrams, "jieba": _jieba}


@dataclass(frozen=True)
class Words:
    """Finds lower-case words of two letters and more, without stop words.

    Args:
        chinese: How Chinese characters and kana are split: `bigrams` takes every two neighbours as a word, as Lucene
            does; `jieba` takes the words that jieba finds.
    """

    chinese: str = "bigrams"

    def __post_init__(self):
        check_choice("chinese", self.chinese, CHINESE)

    def spans(self, text: str) -> list[Span]:
        """The words of a text in their order, with their places; bigrams overlap."""
        found = []
        for run in RUN.finditer(text):
            is_unspaced = re.match(f"[{UNSPACED}]", run[0])
            parts = CHINESE[self.chinese](run[0]) if is_unspaced else [(run[0].lower(), 0)]
            found += [(word, run.start() + start, run.start() + start + len(word)) for word, start in parts]
        return [span for span in found if span[0] not in STOP_WORDS]

    def __call__(self, text: str) -> list[str]:
        """The words of a text in their order."""
        return [word for word, _, _ in self.spans(text)]
