"""Labels of words on the pieces of a tokenizer."""

import pytest

from trine import train_wordpiece
from trine.training.objectives.word_labels import label_pieces


INDEX = {"O": 0, "B-X": 1, "I-X": 2, "B-Y": 3}
WORDS = [None, 0, 0, 0, 1, 2, 2, None]


@pytest.mark.parametrize(
    ("label_all", "labels"),
    [(False, [-100, 1, -100, -100, 2, 0, -100, -100]), (True, [-100, 1, 2, 2, 2, 0, 0, -100])],
)
def test_first_or_all_pieces(label_all, labels):
    assert label_pieces(WORDS, ["B-X", "I-X", "O"], INDEX, label_all) == labels


def test_a_tag_without_an_inside_is_repeated():
    assert label_pieces([0, 0], ["B-Y"], INDEX, True) == [3, 3]


def test_words_of_a_tokenizer():
    words, tags = ["unhappy", "cat", "unhappy"], ["B-X", "O", "B-Y"]
    tokenizer = train_wordpiece(["un happy cat cats un happy"], vocab_size=300, show_progress=False)
    encoding = tokenizer(words, is_split_into_words=True)
    pieces = [len(tokenizer.tokenize(word)) for word in words]
    assert max(pieces) > 1
    expected = [-100]
    for tag, count in zip(tags, pieces, strict=True):
        expected += [INDEX[tag]] + [-100] * (count - 1)
    assert label_pieces(encoding.word_ids(), tags, INDEX) == [*expected, -100]
