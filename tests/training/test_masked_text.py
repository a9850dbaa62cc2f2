"""Sequences and pairs hold the documents' tokens; words are masked whole, each as often as asked."""

import sys
from itertools import starmap
from types import SimpleNamespace

import pytest
import torch

from trine import train_wordpiece
from trine.tokenization.text_files import Piece
from trine.training.data.token_store import read_tokens, write_tokens
from trine.training.data.word_cache import TokenEncoder
from trine.training.objectives.masked_text import MaskedPairs, MaskedSequences, sentence_pieces, split_sentences
from trine.training.objectives.whole_words import WholeWordMaskingCollator, WordEncoder, word_starts


DOCUMENTS = [
    "Unbelievable things happen here. They happen twice!\nA new line begins, and goes on without an end",
    "南京市长江大桥很长。它在江上！深度学习模型可以自动学习特征。",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece([*DOCUMENTS, "able", "believe", "un"], 200, show_progress=False)


@pytest.fixture
def store(tokenizer, tmp_path):
    return make_store(tmp_path / "tokens", TokenEncoder(tokenizer))


@pytest.fixture
def words(tokenizer, tmp_path):
    """Sequences of whole words, of at most 40 tokens."""
    store = make_store(tmp_path / "words", WordEncoder(tokenizer, "tokenizer"))
    return list_of(MaskedSequences(store, tokenizer, 40, whole_words=True))


def make_store(folder, encode, texts=tuple(DOCUMENTS)):
    folder.mkdir()
    write_tokens(folder, starmap(Piece, enumerate(texts)), encode)
    return read_tokens(folder)


def list_of(data):
    return [data[index] for index in range(len(data))]


def test_sentences_end_where_they_do_in_either_language():
    assert [split_sentences(document) for document in DOCUMENTS] == [
        [
            "Unbelievable things happen here.",
            "They happen twice!",
            "A new line begins, and goes on without an end",
        ],
        ["南京市长江大桥很长。", "它在江上！", "深度学习模型可以自动学习特征。"],
    ]
    assert split_sentences(" \n\n") == []


@pytest.mark.parametrize("max_length", [4, 9, 100])
def test_sequences_hold_every_token_in_order(tokenizer, max_length, store, tmp_path):
    data = MaskedSequences(store, tokenizer, max_length)
    rows = list_of(data)
    assert data.num_tokens == sum(len(row["input_ids"]) for row in rows)
    assert all(len(row["input_ids"]) <= max_length for row in rows)
    assert all(row["input_ids"][0] == tokenizer.cls_token_id for row in rows)
    assert all(row["input_ids"][-1] == tokenizer.sep_token_id for row in rows)
    for row in rows:
        expected = tokenizer.get_special_tokens_mask(row["input_ids"], already_has_special_tokens=True)
        assert row["special_tokens_mask"] == expected
    flagged = make_store(tmp_path / "words", WordEncoder(tokenizer, "tokenizer"))
    words = MaskedSequences(flagged, tokenizer, max_length, whole_words=True)
    assert [row["input_ids"] for row in rows] == [row["input_ids"] for row in list_of(words)]
    assert torch.equal(words.text(9), data.text(9)) and torch.equal(data.text(9), store.tokens[:9])
    text = [token for row in rows for token in row["input_ids"][1:-1]]
    assert text == [token for document in DOCUMENTS for token in tokenizer(document)["input_ids"][1:-1]]


def test_words_are_numbered_as_their_tokens_say(tokenizer, words):
    (first, *_) = words
    encoding = tokenizer(DOCUMENTS[0]).encodings[0]
    assert first["input_ids"] == encoding.ids[:39] + [tokenizer.sep_token_id] or first["input_ids"] == encoding.ids
    numbers = [number for number in encoding.word_ids if number is not None]
    assert [number - 1 for number in first["word_ids"][1:-1]] == numbers[: len(first["word_ids"]) - 2]


def test_pairs_are_those_that_the_tokenizer_writes(tokenizer, tmp_path):
    pieces = sentence_pieces(starmap(Piece, enumerate(DOCUMENTS * 5)))
    write_tokens(tmp_path, pieces, TokenEncoder(tokenizer))
    data = MaskedPairs(read_tokens(tmp_path), tokenizer, 30)
    rows = list_of(data)
    assert data.num_tokens == sum(len(row["input_ids"]) for row in rows)
    assert {row["next_sentence_label"] for row in rows} == {0, 1}
    for row in rows:
        border = row["token_type_ids"].index(1)
        first, second = row["input_ids"][1 : border - 1], row["input_ids"][border:-1]
        pair = tokenizer(tokenizer.decode(first), tokenizer.decode(second))
        assert row["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
        assert len(row["input_ids"]) == len(row["attention_mask"]) <= 30
        if tokenizer.decode(first)[0] != "#" and tokenizer.decode(second)[0] != "#":  # begins within a word
            assert pair["input_ids"] == row["input_ids"] and pair["token_type_ids"] == row["token_type_ids"]


def words_of(tokenizer, text, words):
    """The words as texts, from the tokens that start them."""
    encoding = tokenizer(text, add_special_tokens=False).encodings[0]
    starts = word_starts(encoding, text, words)
    borders = [offset[0] for offset, start in zip(encoding.offsets, starts, strict=True) if start] + [len(text)]
    return [text[a:b].strip() for a, b in zip(borders, borders[1:], strict=False)]


def test_words_are_those_of_the_tokenizer_or_of_jieba(tokenizer):
    assert words_of(tokenizer, "Unbelievable things, here.", "tokenizer") == [
        "Unbelievable",
        "things",
        ",",
        "here",
        ".",
    ]
    assert words_of(tokenizer, "长江大桥 is long", "tokenizer") == ["长", "江", "大", "桥", "is", "long"]
    pytest.importorskip("jieba")
    assert words_of(tokenizer, "南京市长江大桥很长。", "jieba") == ["南京市", "长江大桥", "很长", "。"]
    assert words_of(tokenizer, "Unbelievable 模型", "jieba")[0] == "Unbelievable"


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_all_tokens_of_a_word_are_hidden_or_none(tokenizer, padding_side, words):
    tokenizer.padding_side = padding_side
    rows = words * 200
    torch.manual_seed(0)
    batch = WholeWordMaskingCollator(tokenizer, 0.3)(rows)
    ids = tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt")["input_ids"]
    hidden = batch["labels"] != -100
    assert torch.equal(batch["labels"][hidden], ids[hidden])
    assert torch.equal(batch["input_ids"][~hidden], ids[~hidden])
    assert not hidden[torch.isin(ids, torch.tensor(tokenizer.all_special_ids))].any()
    shares = []
    for row, flags, mask in zip(rows, hidden, batch["attention_mask"].bool(), strict=True):
        numbers = torch.tensor(row["word_ids"])[1:-1]
        flags = flags[mask][1:-1]
        of_words = [flags[numbers == number] for number in numbers.unique()]
        assert all(len(set(of_word.tolist())) == 1 for of_word in of_words)
        shares += [float(of_word[0]) for of_word in of_words]
    assert sum(shares) / len(shares) == pytest.approx(0.3, abs=0.02)  # some 13,000 words
    kept = (batch["input_ids"][hidden] == ids[hidden]).float().mean().item()
    masks = (batch["input_ids"][hidden] == tokenizer.mask_token_id).float().mean().item()
    assert masks == pytest.approx(0.8, abs=0.02) and kept == pytest.approx(0.1, abs=0.02)
    tokenizer.padding_side = "right"


def test_special_tokens_are_found_without_being_told(tokenizer, words):
    (row, *_) = words
    del row["special_tokens_mask"]
    batch = WholeWordMaskingCollator(tokenizer, 1.0)([row])
    assert (batch["labels"][0] == -100).nonzero().flatten().tolist() == [0, len(row["input_ids"]) - 1]


def test_errors(tokenizer, store, monkeypatch):
    with pytest.raises(ValueError, match="max_length=3 must be at least 4, with 2 special tokens."):
        MaskedSequences(store, tokenizer, 3)
    with pytest.raises(ValueError, match="max_length=4 must be at least 5, with 3 special tokens."):
        MaskedPairs(store, tokenizer, 4)
    with pytest.raises(ValueError, match=r"words='jeiba' is not among \['tokenizer', 'jieba'\]"):
        WordEncoder(tokenizer, "jeiba")
    with pytest.raises(ValueError, match=r"words='jeiba' is not among \['tokenizer', 'jieba'\]"):
        words_of(tokenizer, "text", "jeiba")
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(ValueError, match="words='tokenizer' needs a fast tokenizer; this is a SimpleNamespace."):
        WordEncoder(slow, "tokenizer")
    with pytest.raises(ValueError, match="mlm_probability=1.5 must lie between 0 and 1."):
        WholeWordMaskingCollator(tokenizer, 1.5)
    with pytest.raises(ValueError, match="mask_replace_prob=0.8 and random_replace_prob=0.5 together are above 1."):
        WholeWordMaskingCollator(tokenizer, random_replace_prob=0.5)
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(ImportError, match=r"words='jieba' needs the package jieba: pip install 'trine\[chinese\]'."):
        WordEncoder(tokenizer, "jieba")(DOCUMENTS)


def test_a_tokenizer_without_a_mask_is_refused(tmp_path):
    from trine import train_byte_level_bpe

    tokenizer = train_byte_level_bpe(["text"], 260, show_progress=False)
    with pytest.raises(ValueError, match="The tokenizer has no mask_token; one of train_wordpiece has them all"):
        MaskedSequences(make_store(tmp_path / "tokens", TokenEncoder(tokenizer)), tokenizer, 40)
    with pytest.raises(ValueError, match="The tokenizer has no mask_token."):
        WholeWordMaskingCollator(tokenizer)
