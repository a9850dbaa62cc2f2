"""Scores of two kinds in one ranking, against sums by hand; and words of texts against bm25s and jieba."""

import bm25s
import jieba
import numpy as np
import pytest

from trine.retrieval.bm25 import BM25
from trine.retrieval.fusion import FUSIONS, Ranking, check_fusion, fuse
from trine.retrieval.words import Words


DENSE = Ranking(["a", "b", "c"], np.array([0.9, 0.5, 0.4]), floor=0.4, depth=3)
LEXICAL = Ranking(["d", "b"], np.array([12.0, 3.0]), floor=0.0, depth=3)  # fewer than could be: the others have none


def ranked(fusion, dense=DENSE, lexical=LEXICAL, weights=(0.7, 0.3), k=10):
    return {each.id: each for each in fuse(dense, lexical, *weights, fusion, k)}


def test_min_max():
    found = ranked("min-max")
    expected = {"a": 0.7, "d": 0.3, "b": 0.7 * 0.1 / 0.5 + 0.3 * 3 / 12, "c": 0.0}
    assert {id_: each.score for id_, each in found.items()} == pytest.approx(expected)
    assert [*found] == sorted(expected, key=lambda id_: -expected[id_])
    assert (found["d"].dense, found["d"].lexical, found["a"].lexical) == (None, 12.0, None)
    assert all(each.score == each.dense_part + each.lexical_part for each in found.values())


def test_z_score():
    dense, lexical = np.array([0.9, 0.5, 0.4, 0.4]), np.array([0.0, 3.0, 0.0, 12.0])
    expected = sum(w * (x - x.mean()) / x.std() for w, x in ((0.7, dense), (0.3, lexical)))
    found = ranked("z-score")
    assert [found[id_].score for id_ in "abcd"] == pytest.approx(expected.tolist())


def test_reciprocal_ranks():
    """What is not listed ranks behind the last place of the list, whether or not the list is full."""
    found = ranked("rrf")
    expected = {"a": 0.7 / 61 + 0.3 / 64, "b": 1 / 62, "c": 0.7 / 63 + 0.3 / 64, "d": 0.7 / 64 + 0.3 / 61}
    assert {id_: each.score for id_, each in found.items()} == pytest.approx(expected)


def test_what_is_not_in_a_full_list_gets_its_lowest_score():
    full = Ranking(["d", "b"], np.array([12.0, 3.0]), floor=3.0, depth=2)
    found = ranked("min-max", lexical=full)
    assert found["b"].lexical_part == found["a"].lexical_part == 0


@pytest.mark.parametrize("fusion", FUSIONS)
def test_equal_scores_leave_the_other_ranking_to_decide(fusion):
    equal = Ranking(["c", "b", "a"], np.ones(3), floor=1.0, depth=3)
    for lexical in (Ranking(), equal) if fusion != "rrf" else (Ranking(),):
        found = ranked(fusion, lexical=lexical)
        assert [*found] == ["a", "b", "c"] and all(each.lexical_part == 0 for each in found.values())
    assert fuse(Ranking(), Ranking(), 1, 1, fusion, 5) == []
    one = Ranking(["a"], np.array([0.5]), floor=0.5, depth=1)
    assert np.isfinite([each.score for each in fuse(one, one, 1, 1, fusion, 5)]).all()
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
    monkeypatch.setitem(__import__("sys").modules, "jieba", None)
    with pytest.raises(ImportError, match=r"chinese='jieba' needs the package jieba: pip install 'trine\[chinese\]'"):
        Words("jieba")("我爱")
    monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
    with pytest.raises(ImportError, match=r"BM25 needs the package bm25s: pip install 'trine\[retrieval\]'"):
        BM25.of(["a"], Words())
    with pytest.raises(ValueError, match=r"chinese='words' is not one of \['bigrams', 'jieba'\]"):
        Words("words")
