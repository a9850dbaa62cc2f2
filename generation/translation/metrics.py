"""Scores of written texts beside their references: BLEU, chrF, METEOR and ROUGE, by the usual libraries."""

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np


_DEBIANS_WORDNET = "/usr/share/wordnet"  # of the package wordnet-base
_NO_SYNONYMS = SimpleNamespace(synsets=lambda word: [])
_NO_STEMS = SimpleNamespace(stem=lambda word: word)
_SCRIPTS_BY_CHARACTER = ("zh", "ja")  # languages that write no spaces between words


@dataclass(frozen=True)
class TextScores:
    """A score of a whole test set, as a function of sums over its texts: so that it can be computed of any of them.

    Attributes:
        statistics: Of each text (N, K).
        score: Of their sum (K,), or of a weighted one.
    """

    statistics: np.ndarray
    score: Callable[[np.ndarray], float]

    def total(self, counts: np.ndarray | None = None) -> float:
        """The score of all texts, each as often as `counts` (N,) says; once by default."""
        return self.score(self.statistics.sum(0) if counts is None else counts @ self.statistics)


def mean_score(values: Sequence[float]) -> TextScores:
    """The mean of a value of each text."""
    return TextScores(np.array([(value, 1) for value in values]), lambda sums: float(sums[0] / sums[1]))


def bleu(texts: Sequence[str], references: Sequence[str], language: str | None = None) -> dict[str, TextScores]:
    """BLEU of the whole, by sacrebleu, whose tokenizer for Chinese takes characters, else 13a."""
    from sacrebleu.metrics.bleu import BLEU

    return {"BLEU": _by_sacrebleu(BLEU(tokenize=_tokenizer_name(language)), texts, references)}


def chrf(texts: Sequence[str], references: Sequence[str], language: str | None = None) -> dict[str, TextScores]:
    """chrF2 of the whole, by sacrebleu: F of character n-grams up to 6, where recall counts four times."""
    from sacrebleu.metrics.chrf import CHRF

    return {"chrF": _by_sacrebleu(CHRF(), texts, references)}


def _by_sacrebleu(metric: Any, texts: Sequence[str], references: Sequence[str]) -> TextScores:
    statistics = metric._extract_corpus_statistics(list(texts), [list(references)])
    return TextScores(
        np.array(statistics, dtype=float), lambda sums: metric._compute_score_from_stats(sums.tolist()).score
    )


def sentence_chrf(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """chrF2 of each text by itself."""
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    return [metric.sentence_score(text, [reference]).score for text, reference in zip(texts, references, strict=True)]


def meteor(texts: Sequence[str], references: Sequence[str], language: str | None = None) -> dict[str, TextScores]:
    """The mean METEOR of the texts, by nltk; its name tells what words may match by.

    English words match as they are, by their stems (Porter) and by WordNet's synonyms: "METEOR". Where WordNet is not
    on the machine the name is "METEOR (exact, stem)"; words of other languages match as they are: "METEOR (exact)".

    nltk looks synonyms up by the stems of words, and so finds fewer than the original.

    Source: Banerjee and Lavie 2005; parameters of Lavie and Agarwal 2007.
    """
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.meteor_score import meteor_score

    tokenize = _tokenizer(language)
    wordnet = open_wordnet() if language in (None, "en") else None
    stemmer: Any = PorterStemmer() if language in (None, "en") else _NO_STEMS
    name = "METEOR (exact)" if stemmer is _NO_STEMS else "METEOR" if wordnet else "METEOR (exact, stem)"
    synonyms: Any = wordnet or _NO_SYNONYMS
    scores = [
        100 * meteor_score([tokenize(reference)], tokenize(text), stemmer=stemmer, wordnet=synonyms)
        for text, reference in zip(texts, references, strict=True)
    ]
    return {name: mean_score(scores)}


def rouge(texts: Sequence[str], references: Sequence[str], language: str | None = None) -> dict[str, TextScores]:
    """The mean F of common words, pairs of words and longest common subsequences, by rouge-score, without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    names = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    tokenizer = SimpleNamespace(tokenize=_tokenizer(language)) if language in _SCRIPTS_BY_CHARACTER else None
    scorer = RougeScorer(list(names), tokenizer=tokenizer)
    scores = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    return {name: mean_score([100 * score[key].fmeasure for score in scores]) for key, name in names.items()}


def text_habits(texts: Sequence[str], language: str | None = None) -> dict[str, TextScores]:
    """How texts are written: their words, and the percentage of them in which a pair of words comes twice."""
    tokenize = _tokenizer(language)
    rows = [tokenize(text.lower()) for text in texts]
    pairs = [[*zip(row, row[1:], strict=False)] for row in rows]
    return {
        "words": mean_score([len(row) for row in rows]),
        "repeating": mean_score([100.0 * (len({*row}) < len(row)) for row in pairs]),
    }


class Metric(NamedTuple):
    """A function of (texts, references, language) and the packages that it needs."""

    score: Callable[[Sequence[str], Sequence[str], str | None], dict[str, TextScores]]
    modules: dict[str, str]  # name: that of its package


_SACREBLEU = {"sacrebleu": "sacrebleu"}
METRICS = {
    "bleu": Metric(bleu, _SACREBLEU),
    "chrf": Metric(chrf, _SACREBLEU),
    "meteor": Metric(meteor, {**_SACREBLEU, "nltk": "nltk"}),
    "rouge": Metric(rouge, {**_SACREBLEU, "rouge_score": "rouge-score"}),
}


def score_texts(
    texts: Sequence[str],
    references: Sequence[str],
    metrics: Iterable[str] = ("bleu", "chrf", "meteor"),
    language: str | None = None,
) -> dict[str, float]:
    """The scores of texts, each beside its reference: all from 0 to 100, and higher is better.

    Args:
        metrics: Names in `METRICS`.
        language: That of the texts, for their words: None and languages without a tokenizer of their own are cut at
            spaces and marks.

    Raises:
        ValueError: A metric is unknown, there is no text, or not as many references.
        ImportError: A package that a metric needs is not installed.
    """
    return {name: scores.total() for name, scores in measure_texts(texts, references, metrics, language).items()}


def measure_texts(
    texts: Sequence[str], references: Sequence[str], metrics: Iterable[str], language: str | None = None
) -> dict[str, TextScores]:
    """Measures texts as `score_texts` does, but leaves the sum over them open: for intervals by the bootstrap."""
    check_metrics(metrics)
    if not texts or len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts cannot be scored beside {len(references)} references.")
    scores: dict[str, TextScores] = {}
    for name in metrics:
        scores |= METRICS[name].score(texts, references, language)
    return scores


def check_metrics(metrics: Iterable[str]) -> None:
    """Raises a ValueError for an unknown metric, and for one whose package is not installed."""
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"metrics has {name!r}, which is not one of {list(METRICS)}.")
        if missing := [package for module, package in METRICS[name].modules.items() if find_spec(module) is None]:
            packages = ", ".join(missing)
            raise ValueError(f"metrics has {name!r}, which needs {packages}: pip install 'trine[translation]'")


def describe_scores(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The scores by the name of what is scored, as lines of a table."""
    names = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    first = max(map(len, rows))
    widths = [max(len(name), 7) + 2 for name in names]
    lines = [" " * first + "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))]
    for row, scores in rows.items():
        lines.append(f"{row:>{first}}" + "".join(f"{scores[n]:{w}.2f}" for n, w in zip(names, widths, strict=True)))
    return "\n".join(lines)


@cache
def open_wordnet() -> Any | None:
    """WordNet by nltk: its own copy, or that in the folder WNSEARCHDIR, or Debian's; None if there is none."""
    import nltk.data
    from nltk.corpus import wordnet
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    try:
        wordnet.ensure_loaded()
        return wordnet
    except LookupError:
        pass

    class Files(WordNetCorpusReader):
        """Needs neither the list of lexicographers' files nor the index of senses, which METEOR does not ask for."""

        def open(self, file):
            if file == "lexnames":
                return io.StringIO("".join(f"{number:02} file{number} 0\n" for number in range(45)))
            return super().open(file)

        def map_wn(self, version="wordnet"):
            return None  # what synsets are called in other languages

    folders = filter(None, (os.environ.get("WNSEARCHDIR"), _DEBIANS_WORDNET))
    found = [folder for folder in map(Path, folders) if (folder / "data.noun").is_file()]
    if not found:
        return None
    nltk.data.path.append(str(found[0]))  # nltk opens no files elsewhere
    return Files(str(found[0]), omw_reader=object())


def _tokenizer_name(language: str | None) -> str:
    return "zh" if language == "zh" else "13a"


def _tokenizer(language: str | None) -> Callable[[str], list[str]]:
    """The function that cuts a text into words, or Chinese into characters: sacrebleu's tokenizer, as for BLEU."""
    from sacrebleu.metrics.bleu import BLEU

    tokenizer = BLEU(tokenize=_tokenizer_name(language)).tokenizer
    return lambda text: tokenizer(text).split()
