"""Labels of words on the pieces of a tokenizer, and back."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AddedToken, PreTrainedTokenizerFast

from trine import train_byte_level_bpe, train_unigram, train_wordpiece
from trine.training import WordPieces


INDEX = {"O": 0, "B-X": 1, "I-X": 2, "B-Y": 3}
PARTS = [range(0), range(1), range(1), range(1), range(1, 2), range(2, 3), range(2, 3), range(0)]
PIECES = WordPieces(PARTS, [1, 4, 5], set())


def sentencepiece(*pieces):
    """A tokenizer as XLM-R's, which puts a blank before each text and each word."""
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in ("<unk>", "▁", *pieces)], unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize(
    ("label_all", "labels"),
    [(False, [-100, 1, -100, -100, 2, 0, -100, -100]), (True, [-100, 1, 2, 2, 2, 0, 0, -100])],
)
def test_first_or_all_pieces(label_all, labels):
    assert PIECES.labels(["B-X", "I-X", "O"], INDEX, label_all) == labels
    assert PIECES.tags(["B-X", "I-X", "O"], INDEX) == ["B-X", "I-X", "O"]


def test_a_tag_without_an_inside_is_repeated():
    assert WordPieces([range(1), range(1)], [0], set()).labels(["B-Y"], INDEX, True) == [3, 3]


def test_words_of_a_tokenizer():
    words, tags = ["unhappy", "cat", "unhappy"], ["B-X", "O", "B-Y"]
    tokenizer = train_wordpiece(["un happy cat cats un happy"], vocab_size=300, show_progress=False)
    encoding = tokenizer([words], is_split_into_words=True)
    pieces = [len(tokenizer.tokenize(word)) for word in words]
    assert max(pieces) > 1
    expected = [-100]
    for tag, count in zip(tags, pieces, strict=True):
        expected += [INDEX[tag]] + [-100] * (count - 1)
    assert WordPieces.find(encoding, 0, words, tokenizer).labels(tags, INDEX) == [*expected, -100]


def test_a_blank_before_a_character_has_not_its_label():
    """SentencePiece cuts characters that stand alone into "▁" and themselves."""
    tokenizer = sentencepiece(*"北京大学")
    words, tags = ["北", "京", "大"], ["B-X", "I-X", "B-Y"]
    encoding = tokenizer([words], is_split_into_words=True)
    tokens = encoding.tokens(0)
    assert tokens == ["▁", "北", "▁", "京", "▁", "大"]
    pieces = WordPieces.find(encoding, 0, words, tokenizer)
    assert pieces.carriers == [1, 3, 5]
    assert pieces.labels(tags, INDEX) == [-100, 1, -100, 2, -100, 3]
    assert pieces.labels(tags, INDEX, label_all=True) == [0, 1, 2, 2, 0, 3]


def test_a_word_that_is_a_blank_is_one():
    tokenizer = sentencepiece("▁a", "▁b")
    encoding = tokenizer([["a", " ", "b"]], is_split_into_words=True)
    pieces = WordPieces.find(encoding, 0, ["a", " ", "b"], tokenizer)
    assert encoding.tokens(0) == ["▁a", "▁", "▁b"]
    assert pieces.carriers == [0, 1, 2]


@pytest.mark.parametrize("train", [train_unigram, train_wordpiece, train_byte_level_bpe])
@pytest.mark.parametrize("delimiter", ["", " ", "--"])
def test_words_in_a_text(train, delimiter):
    """A word's label is where the first piece is that has one of its characters, as the offsets tell."""
    words, tags = ["北京", "is", "naïve", "大", "学"], ["B-X", "O", "B-Y", "B-X", "I-X"]
    tokenizer = train(["北京大学 is naive"] * 3, vocab_size=400, show_progress=False)
    text = delimiter.join(words)
    encoding = tokenizer([text])
    pieces = WordPieces.find(encoding, 0, words, tokenizer, delimiter)
    start = 0
    for word, carrier in zip(words, pieces.carriers, strict=True):
        places = range(start, start + len(word))
        has_part = [bool({*range(*offset)} & {*places}) for offset in encoding.encodings[0].offsets]
        first = has_part.index(True)
        assert carrier == first + (encoding.tokens(0)[first] == "▁")
        start += len(word) + len(delimiter)
    labels = [label for label in pieces.labels(tags, INDEX) if label != -100]
    assert pieces.tags([[*INDEX][label] for label in labels], INDEX) == tags


def test_a_piece_of_several_words_has_the_label_of_the_first():
    """What it cannot say of the others is that one begins there."""
    tokenizer = train_wordpiece(["北京 参加了 大学"], vocab_size=300, show_progress=False)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in ("参加了", "京大")])
    words, tags = [*"北京大参加了"], ["B-X", "I-X", "B-X", "B-Y", "B-X", "O"]
    encoding = tokenizer(["".join(words)])
    assert encoding.tokens(0)[1:-1] == ["北", "京大", "参加了"]
    pieces = WordPieces.find(encoding, 0, words, tokenizer, "")
    assert pieces.carriers == [1, 2, 2, 3, 3, 3]
    assert pieces.labels(tags, INDEX) == [-100, 1, 2, 3, -100]
    assert pieces.tags(["B-X", "I-X", "B-Y"], INDEX) == ["B-X", "I-X", "I-X", "B-Y", "B-Y", "B-Y"]
    assert pieces.tags(["B-X", "O", "B-X"], INDEX) == ["B-X", "O", "O", "B-X", "I-X", "I-X"]


def test_words_that_are_cut_off_carry_nothing():
    tokenizer = train_wordpiece(["北京大学"], vocab_size=300, show_progress=False)
    encoding = tokenizer([[*"北京大学"]], is_split_into_words=True, truncation=True, max_length=4)
    pieces = WordPieces.find(encoding, 0, [*"北京大学"], tokenizer)
    assert pieces.carriers == [1, 2, None, None]
    assert pieces.tags(["B-X", "O"], INDEX) == ["B-X", "O", None, None]
