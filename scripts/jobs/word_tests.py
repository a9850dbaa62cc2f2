"""Tests of word vectors by analogies and by people's judgements of similarity, with gensim."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trine.training.measures.intervals import bootstrap_interval, resampled_interval


# What comes with gensim, by the names that options take.
ANALOGIES = {"questions-words": "questions-words.txt"}
SIMILARITIES = {"wordsim353": "wordsim353.tsv", "simlex999": "simlex999.txt"}
TOTAL = "total"
FEWEST_PAIRS = 10  # for an interval


class AnalogyScores(NamedTuple):
    """How many questions of a file were answered rightly.

    Args:
        sections: Numbers of right answers and of questions by section, the last of all.
        interval: Of the total share, 95 %, by the bootstrap over questions.
        skipped: Questions that have an unknown word.
    """

    sections: dict[str, tuple[int, int]]
    interval: tuple[float, float]
    skipped: int


class SimilarityScores(NamedTuple):
    """How well cosines agree with people's judgements.

    Args:
        spearman: Rank correlation.
        interval: Of it, 95 %, by the bootstrap over pairs; None where fewer than FEWEST_PAIRS are known.
        pearson: Correlation.
        pairs: Numbers of pairs that are known, and of all.
        unknown: Percent of the pairs that have an unknown word.
        skipped: Numbers of the lines that are neither pairs nor comments.
    """

    spearman: float
    interval: tuple[float, float] | None
    pearson: float
    pairs: tuple[int, int]
    unknown: float
    skipped: list[int]


def file_of(name: str, choices: dict[str, str], option: str) -> Path:
    """The file of a name that comes with gensim, or the file itself.

    Raises:
        ValueError: There is none.
    """
    if name in choices:
        from gensim.test.utils import datapath

        return Path(datapath(choices[name]))
    if not Path(name).is_file():
        raise ValueError(f"{option}='{name}' is neither a file nor one of {[*choices]}, which come with gensim.")
    return Path(name)


def questions(path: Path) -> Iterator[list[str]]:
    """The four words of each question of a file.

    Raises:
        ValueError: It has none, or one before the first section.
    """
    found, section = 0, False
    for number, line in enumerate(lines_of(path), 1):
        section = section or line.startswith(": ")
        words = line.split()
        if line.startswith(": ") or len(words) != 4:
            continue
        if not section:
            raise ValueError(f"analogies='{path}', line {number}: a line ': SECTION' has to come before questions.")
        found += 1
        yield words
    if not found:
        raise ValueError(f"analogies='{path}' has no questions, lines of four words.")


def judgements(path: Path) -> Iterator[tuple[str, str, float]]:
    """The pairs of a file with their judgements, which tabs part.

    Raises:
        ValueError: It has none, or a judgement that is not finite.
    """
    found = 0
    for number, line in enumerate(lines_of(path), 1):
        if (pair := judgement_of(line)) is None:
            continue
        if not np.isfinite(pair[2]):
            raise ValueError(f"similarity='{path}', line {number}: the judgement {pair[2]} is not finite.")
        found += 1
        yield pair
    if not found:
        raise ValueError(f"similarity='{path}' has no pairs, lines of two words and a number with tabs between them.")


def judgement_of(line: str) -> tuple[str, str, float] | None:
    """The pair of a line with its judgement; None of a comment and of what is no pair, which gensim skips as well."""
    first, *rest = line.split("\t")
    if line.startswith("#") or len(rest) != 2:
        return None
    try:
        return first, rest[0], float(rest[1])
    except ValueError:
        return None


def lines_without_pair(path: Path) -> list[int]:
    """The numbers of the lines of a file of judgements that are neither empty nor comments, and no pairs."""
    lines = [(number, line) for number, line in enumerate(lines_of(path), 1) if line.strip() and line[0] != "#"]
    return [number for number, line in lines if judgement_of(line) is None]


def lines_of(path: Path) -> list[str]:
    """The lines of a file of text; a ValueError if it is none."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not UTF-8 text: {error}") from error


def score_analogies(vectors: Any, path: Path) -> AnalogyScores:
    """Answers the questions of a file by gensim's `evaluate_word_analogies`, capitals aside."""
    asked = sum(1 for _ in questions(path))
    _, sections = vectors.evaluate_word_analogies(str(path))
    counts = {part["section"]: (len(part["correct"]), len(part["incorrect"])) for part in sections[:-1]}
    right = sum(good for good, _ in counts.values())
    answered = right + sum(bad for _, bad in counts.values())
    marks = [1] * right + [0] * (answered - right)
    interval = bootstrap_interval(marks) if marks else (float("nan"), float("nan"))
    shown = {name: (good, good + bad) for name, (good, bad) in counts.items()}
    return AnalogyScores({**shown, TOTAL: (right, answered)}, interval, asked - answered)


def score_similarity(vectors: Any, path: Path) -> SimilarityScores:
    """Compares cosines with the judgements of a file by gensim's `evaluate_word_pairs`, capitals aside.

    Raises:
        ValueError: Fewer than two pairs are known.
    """
    from scipy.stats import spearmanr

    pairs = [*judgements(path)]
    keys = {key.upper(): key for key in reversed(vectors.index_to_key)}
    known = [(keys.get(a.upper()), keys.get(b.upper()), judged) for a, b, judged in pairs]
    table = np.array([(vectors.similarity(a, b), judged) for a, b, judged in known if a and b])
    if len(table) < 2:
        raise ValueError(f"similarity='{path}' has {len(pairs)} pairs, of which the vectors know {len(table)}.")
    pearson, spearman, unknown = vectors.evaluate_word_pairs(str(path))

    def drawn(counts: np.ndarray) -> float:
        return float(spearmanr(np.repeat(table, counts, axis=0)).statistic)  # pyright: ignore[reportAttributeAccessIssue]

    interval = resampled_interval(drawn, len(table)) if len(table) >= FEWEST_PAIRS else None
    counts, skipped = (len(table), len(pairs)), lines_without_pair(path)
    return SimilarityScores(float(spearman[0]), interval, float(pearson[0]), counts, float(unknown), skipped)


def words_of(path: Path, read: Any) -> Sequence[str]:
    """The words of a file of questions or judgements, each once."""
    return [*dict.fromkeys(word for row in read(path) for word in row if isinstance(word, str))]
