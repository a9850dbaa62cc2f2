"""Scores of two kinds in one ranking, against sums by hand; and words of texts against bm25s and jieba."""

import sys

import bm25s
import jieba
import numpy as np
import pytest

from trine.retrieval.bm25 import BM25
from trine.retrieval.fusion import FUSIONS, Candidates, check_fusion, fuse
from trine.retrieval.words import Words


DENSE, LEXICAL = np.array([0.9, 0.5, 0.4, -0.1]), np.array([0.0, 3.0, 0.0, 12.0])


def ranked(fusion, dense=DENSE, lexical=LEXICAL, weights=(0.7, 0.3), k=10, depth=2):
    return {each.id: each for each in fuse(Candidates("abcd", dense, lexical, depth), *weights, fusion, k)}


def test_min_max():
    found = ranked("min-max")
    expected = {"a": 0.7, "b": 0.7 * 0.6 + 0.3 * 3 / 12, "c": 0.7 * 0.5, "d": 0.3}
    assert {id_: each.score for id_, each in found.items()} == pytest.approx(expected)
    assert [*found] == sorted(expected, key=lambda id_: -expected[id_])
    assert (found["d"].dense, found["d"].lexical, found["a"].lexical) == (-0.1, 12.0, 0.0)
    assert all(each.score == each.dense_part + each.lexical_part for each in found.values())
    found = ranked("min-max", lexical=LEXICAL + 3)  # words begin at 0, also where all have some
    assert found["a"].lexical_part == pytest.approx(0.3 * 3 / 15)


def test_z_score():
    expected = sum(w * (x - x.mean()) / x.std() for w, x in ((0.7, DENSE), (0.3, LEXICAL)))
    found = ranked("z-score")
    assert [found[id_].score for id_ in "abcd"] == pytest.approx(expected.tolist())


def test_reciprocal_ranks():
    """Behind the first two, and without a word or with the lowest cosine, all have the third rank."""
    found = ranked("rrf")
    expected = {"a": 0.7 / 61 + 0.3 / 63, "b": 1 / 62, "c": 1 / 63, "d": 0.7 / 63 + 0.3 / 61}
    assert {id_: each.score for id_, each in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_equal_scores_leave_the_other_kind_to_decide(fusion):
    for lexical in (None, np.zeros(4), np.ones(4)):
        found = ranked(fusion, lexical=lexical, depth=4)
        assert [*found] == ["a", "b", "c", "d"] and all(each.lexical_part == 0 for each in found.values())
    found = ranked(fusion, dense=np.full(4, 0.5, np.float32), depth=4)
    assert [*found][:2] == ["d", "b"] and all(each.dense_part == 0 for each in found.values())
    assert fuse(Candidates([], None, np.zeros(0), 5), 1, 1, fusion, 5) == []
    (one,) = fuse(Candidates(["a"], np.array([0.5]), np.array([2.0]), 1), 1, 1, fusion, 5)
    assert np.isfinite(one.score)
    assert [*ranked(fusion, k=2)] == [*ranked(fusion)][:2]


@pytest.mark.parametrize(
    ("fusion", "weights", "message"),
    [
        ("raw", (0.7, 0.3), r"fusion='raw' would add raw scores.* Choose from \['min-max', 'z-score', 'rrf'\]"),
        ("minmax", (0.7, 0.3), r"fusion='minmax' is not one of .*Did you mean 'min-max'\?"),
        ("rrf", (float("nan"), 0.3), "dense_weight=nan must be a finite number of at least 0"),
        ("rrf", (0.7, -0.1), "lexical_weight=-0.1 must be a finite number of at least 0"),
        ("rrf", (float("inf"), 1), "dense_weight=inf must be"),
        ("rrf", ("0.7", 1), "dense_weight='0.7' must be"),
        ("rrf", (True, 1), "dense_weight=True must be"),
        ("rrf", (0, 0.0), "leave nothing to rank by"),
    ],
)
def test_weights_and_fusions_that_are_refused(fusion, weights, message):
    with pytest.raises(ValueError, match=message):
        check_fusion(fusion, *weights)


TEXTS = ["The Red house, by a RIVER; it's 3 times x2.", "naïve Größe foo_bar", "of the and", "", "red river red"]


def test_words_are_those_of_bm25s():
    tokenized = bm25s.tokenize(TEXTS, stopwords="en", return_ids=False, show_progress=False)
    assert [Words()(text) for text in TEXTS] == tokenized


def test_scores_are_those_of_bm25s():
    theirs = bm25s.BM25()
    theirs.index(bm25s.tokenize(TEXTS, stopwords="en", show_progress=False), show_progress=False)
    ours = BM25.of(TEXTS, Words())
    for words in (["red", "river", "red"], ["foo_bar"], ["unknown", "times"]):
        assert np.array_equal(ours.scores(words), theirs.get_scores(words)) and ours.scores(words).any()
    assert not ours.scores(["unknown"]).any() and not BM25.of(["of the"], Words()).scores(["of"]).any()


def test_chinese_words():
    text = "我爱Python编程的猫"
    assert Words()(text) == ["我爱", "python", "编程", "程的", "的猫"]
    assert Words()("猫 カメラ") == ["猫", "カメ", "メラ"] and Words()("的") == []
    jieba_words = [word for run in ("我爱", "编程的猫") for word in jieba.lcut(run) if word != "的"]
    assert Words("jieba")(text) == [*jieba_words[: jieba_words.index("编程")], "python", "编程", "猫"]
    for words in (Words(), Words("jieba")):
        assert all(text[start:end].lower() == word for word, start, end in words.spans(text))


def test_packages_that_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(ImportError, match=r"chinese='jieba' needs the package jieba: pip install 'trine\[chinese\]'"):
        Words("jieba")("我爱")
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r"BM25 needs the package bm25s: pip install 'trine\[retrieval\]'"):
        BM25.of(["a"], Words())
    with pytest.raises(ValueError, match=r"chinese='words' is not one of \['bigrams', 'jieba'\]"):
        Words("words")
