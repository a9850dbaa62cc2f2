"""Pairs for next-sentence prediction come from where their label says, and fit."""

from itertools import accumulate, pairwise

import pytest

from trine.training.objectives.sentence_pairs import sentence_pairs


# Document d has 2 + d % 7 sentences, the s-th of which has 3 + (d + s) % 5 tokens; some have no text at all.
LENGTHS = [[3 + (d + s) % 5 for s in range(2 + d % 7)] if d % 10 else [] for d in range(1, 66)]
BORDERS = list(accumulate((length for document in LENGTHS for length in document), initial=0))
SENTENCES = iter([range(start, stop) for start, stop in pairwise(BORDERS)])
DOCUMENTS = [[next(SENTENCES) for _ in document] for document in LENGTHS]
DOCUMENT_OF = {token: d for d, document in enumerate(DOCUMENTS) for sentence in document for token in sentence}


def test_the_second_segment_follows_the_first_or_is_of_another_document():
    pairs = list(sentence_pairs(DOCUMENTS, 1000))
    for first, second, is_random in pairs:
        documents = [{DOCUMENT_OF[token] for token in segment} for segment in (first, second)]
        assert len(documents[0]) == len(documents[1]) == 1
        assert (documents[0] != documents[1]) == bool(is_random)
        assert is_random or first.stop == second.start  # nothing is left out between them
    share = sum(is_random for *_, is_random in pairs) / len(pairs)
    assert 0.4 < share < 0.6


def test_every_sentence_of_a_document_with_two_is_seen():
    seen = {token for *segments, _ in sentence_pairs(DOCUMENTS, 1000) for segment in segments for token in segment}
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
        list(sentence_pairs([[range(1)], []], 16))
    with pytest.raises(ValueError, match="max_tokens=1 must be at least 2"):
        list(sentence_pairs(DOCUMENTS, 1))
