"""BLEU, chrF, METEOR and ROUGE beside values counted by hand."""

import re

import numpy as np
import pytest

from trine.generation.translation import metrics as text_metrics
from trine.generation.translation.metrics import (
    METRICS,
    describe_scores,
    measure_texts,
    open_wordnet,
    score_texts,
    sentence_chrf,
    text_habits,
)


def score(name, text, reference, language=None):
    return score_texts([text], [reference], [name], language)


def test_bleu():
    """Words in common: 5 of 6, pairs 3 of 5, triples 2 of 4, fours 1 of 3; the lengths are equal."""
    scores = score("bleu", "the cat sat on the mat", "the cat sat on a mat")
    assert scores == {"BLEU": pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)}


def test_bleu_is_of_the_whole():
    """Counts are summed over the texts, not scores: words 4 + 1 of 4 + 4, and so on; with the brevity of neither."""
    scores = score_texts(["a b c d", "e x y z"], ["a b c d", "e f g h"], ["bleu"])
    assert scores["BLEU"] == pytest.approx(100 * (5 / 8 * 3 / 6 * 2 / 4 * 1 / 2) ** 0.25)


def test_chinese_is_scored_by_characters():
    """Characters 4 of 5, pairs 2 of 4, triples 1 of 3, and no fours: half a one of 2 (exponential smoothing)."""
    text, reference = "我爱吃苹果", "我喜吃苹果"
    assert score("bleu", text, reference, "zh")["BLEU"] == pytest.approx(
        100 * (4 / 5 * 2 / 4 * 1 / 3 * 0.5 / 2) ** 0.25
    )
    assert score("bleu", text, reference)["BLEU"] == 0  # one unknown word
    rouge = score("rouge", text, reference, "zh")
    assert rouge == {
        "ROUGE-1": pytest.approx(100 * 4 / 5),
        "ROUGE-2": pytest.approx(100 * 2 / 4),
        "ROUGE-L": pytest.approx(100 * 4 / 5),
    }
    # P = R = 4 / 5 in two chunks
    assert score("meteor", text, reference, "zh") == {"METEOR (exact)": pytest.approx(80 * (1 - 0.5 * (2 / 4) ** 3))}


def test_chrf():
    """Of characters 2 in 3 are common, of pairs 1 in 2, of triples none in 1; precision is recall."""
    expected = 100 * (2 / 3 + 1 / 2 + 0) / 3
    assert score("chrf", "abc", "abd") == {"chrF": pytest.approx(expected)}
    assert sentence_chrf(["abc", "x y"], ["abd", "x y"]) == pytest.approx([expected, 100])


def test_rouge():
    """Two of 3 words are among the 4 of the reference, one pair of 2 among 3, and 2 in order."""
    scores = score("rouge", "the cat sat", "the cat ran away")
    assert scores == {
        "ROUGE-1": pytest.approx(100 * 2 * 2 / (3 + 4)),
        "ROUGE-2": pytest.approx(100 * 2 * 1 / (2 + 3)),
        "ROUGE-L": pytest.approx(100 * 2 * 2 / (3 + 4)),
    }


def test_a_score_of_texts_drawn_anew_is_that_of_these_texts():
    texts, references = ["a b c d", "e x y z", "e f"], ["a b c d", "e f g h", "e f g"]
    drawn, counts = [0, 2, 2], np.array([1, 0, 2])
    for name in METRICS:
        again = score_texts([texts[i] for i in drawn], [references[i] for i in drawn], [name])
        scores = measure_texts(texts, references, [name])
        assert {key: each.total(counts) for key, each in scores.items()} == pytest.approx(again)


def test_words_and_pairs_of_words_that_come_twice():
    habits = text_habits(["A b, a b", "a b b a", "no no no", "one"])
    assert habits["words"].total() == pytest.approx((5 + 4 + 3 + 1) / 4)  # a comma counts
    assert habits["repeating"].statistics[:, 0].tolist() == [100, 0, 100, 0]


@pytest.fixture
def no_wordnet(monkeypatch):
    monkeypatch.setattr(text_metrics, "open_wordnet", lambda: None)


def test_meteor(no_wordnet):
    """Three of 4 words match, in 2 chunks: F = 3/4, less a penalty of (2/3)^3 / 2. Stems match, too."""
    expected = 75 * (1 - 0.5 * (2 / 3) ** 3)
    assert score("meteor", "A b c d", "a b x d", "en") == {"METEOR (exact, stem)": pytest.approx(expected)}
    assert score("meteor", "walks b c d", "walking b x d") == {"METEOR (exact, stem)": pytest.approx(expected)}
    assert score("meteor", "Läuft b c d", "läuft b x d", "de") == {"METEOR (exact)": pytest.approx(expected)}


def test_recall_counts_nine_times(no_wordnet):
    """Banerjee and Lavie's F: 10 P R / (R + 9 P), here with P = 1, R = 1/2, in one chunk of 2."""
    score_ = score("meteor", "a b", "a b c d", "en")["METEOR (exact, stem)"]
    assert score_ == pytest.approx(100 * 10 * 0.5 / (0.5 + 9) * (1 - 0.5 * (1 / 2) ** 3))


def test_synonyms_of_a_small_wordnet(tmp_path, monkeypatch):
    """A WordNet of one set of synonyms, in the format of wndb(5WN); both words are their own stems."""
    head = "  1 what is before the first line is a licence\n"
    for name in ("noun", "verb", "adj", "adv"):
        data = f"{len(head):08} 06 n 02 car 0 auto 0 000 | a vehicle\n"
        index = "".join(f"{word} n 1 0 1 0 {len(head):08}\n" for word in ("auto", "car"))
        (tmp_path / f"{name}.exc").touch()
        (tmp_path / f"data.{name}").write_text(head + data * (name == "noun"))
        (tmp_path / f"index.{name}").write_text(head + index * (name == "noun"))
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    open_wordnet.cache_clear()
    try:
        one_chunk = 100 * (1 - 0.5 * (1 / 3) ** 3)
        assert score("meteor", "the red auto", "the red car", "en") == {"METEOR": pytest.approx(one_chunk)}
    finally:
        open_wordnet.cache_clear()


def test_scores_as_a_table():
    table = describe_scores({"model": {"BLEU": 1.5, "chrF": 22.25}, "first 8 words": {"BLEU": 0, "chrF": 100}})
    assert [line.split() for line in table.splitlines()] == [
        ["BLEU", "chrF"],
        ["model", "1.50", "22.25"],
        ["first", "8", "words", "0.00", "100.00"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1


@pytest.mark.parametrize(
    ("texts", "references", "metrics", "message"),
    [
        ([], [], ["bleu"], "0 texts cannot be scored beside 0 references."),
        (["a"], ["a", "b"], ["bleu"], "1 texts cannot be scored beside 2 references."),
        (["a"], ["a"], ["blue"], f"metrics has 'blue', which is not one of {list(METRICS)}."),
    ],
)
def test_errors(texts, references, metrics, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        score_texts(texts, references, metrics)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(text_metrics, "find_spec", lambda module: None)
    with pytest.raises(
        ValueError,
        match=re.escape("metrics has 'rouge', which needs sacrebleu, rouge-score: pip install 'trine[translation]'"),
    ):
        score_texts(["a"], ["a"], ["rouge"])
