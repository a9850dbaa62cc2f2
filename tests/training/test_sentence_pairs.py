"""Pairs for next-sentence prediction come from where their label says, and fit."""

import pytest

from trine.training.sentence_pairs import sentence_pairs


# Token t of sentence s of document d is the number 10000 d + 100 s + t, so that every token tells its place.
DOCUMENTS = [
    [[10000 * d + 100 * s + t for t in range(3 + (d + s) % 5)] for s in range(2 + d % 7)] for d in range(1, 60)
]


def test_the_second_segment_follows_the_first_or_is_of_another_document():
    pairs = list(sentence_pairs(DOCUMENTS, 1000))
    for first, second, is_random in pairs:
        documents = [{token // 10000 for token in segment} for segment in (first, second)]
        assert len(documents[0]) == len(documents[1]) == 1
        assert (documents[0] != documents[1]) == bool(is_random)
        if not is_random:  # nothing is left out between them
            sentences = DOCUMENTS[first[0] // 10000 - 1]
            text = [token for sentence in sentences for token in sentence]
            start = text.index(first[0])
            assert text[start : start + len(first) + len(second)] == first + second
    share = sum(is_random for *_, is_random in pairs) / len(pairs)
    assert 0.4 < share < 0.6


def test_every_sentence_of_a_document_with_two_is_seen():
    seen = {token for first, second, _ in sentence_pairs(DOCUMENTS, 1000) for token in first + second}
    # The last sentence alone after a random pair has no second segment, so its document's end may go unseen.
    firsts = {token for document in DOCUMENTS for sentence in document[:-1] for token in sentence}
    assert firsts <= seen


@pytest.mark.parametrize("limit", [2, 9, 16])
def test_pairs_fit_and_both_segments_have_tokens(limit):
    pairs = list(sentence_pairs(DOCUMENTS, limit))
    assert pairs and all(first and second and len(first) + len(second) <= limit for first, second, _ in pairs)


def test_the_seed_decides():
    assert list(sentence_pairs(DOCUMENTS, 16, seed=1)) == list(sentence_pairs(DOCUMENTS, 16, seed=1))
    assert list(sentence_pairs(DOCUMENTS, 16, seed=1)) != list(sentence_pairs(DOCUMENTS, 16, seed=2))


def test_errors():
    with pytest.raises(ValueError, match="documents has 1 with text; random segments need at least 2."):
        list(sentence_pairs([[[1]], [[]]], 16))
    with pytest.raises(ValueError, match="max_tokens=1 must be at least 2"):
        list(sentence_pairs(DOCUMENTS, 1))
