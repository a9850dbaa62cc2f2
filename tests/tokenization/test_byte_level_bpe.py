"""Byte-level BPE: nothing is lost, and merges stay within words."""

import json
import random
import re

import pytest
from support.tokenizer_texts import ADVERSARIAL, SCALAR_VALUES, TEXTS, chinese_sentences
from tokenizers.pre_tokenizers import ByteLevel

from trine.tokenization.byte_level_bpe import train_byte_level_bpe
from trine.tokenization.unigram import train_unigram
from trine.tokenization.word_pattern import OTHERS


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(TEXTS, 380, show_progress=False, model_max_length=64)


@pytest.mark.parametrize("text", [*ADVERSARIAL, "<|endoftext|> inside <|pad|>"])
def test_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_round_trip_of_random_unicode(tokenizer):
    text = "".join(map(chr, random.Random(0).choices(SCALAR_VALUES, k=20_000)))
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_encoding_adds_nothing_and_offsets_cover_the_text(tokenizer):
    text = "It's a line.\n    return"
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert not set(encoded.input_ids) & set(tokenizer.all_special_ids)
    assert "".join(text[start:end] for start, end in encoded.offset_mapping) == text
    pair = tokenizer("a line", " of text")
    assert pair.input_ids == tokenizer("a line").input_ids + tokenizer(" of text").input_ids


def test_vocabulary(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert len(tokenizer) == tokenizer.vocab_size == 380
    assert set(ByteLevel.alphabet()) <= set(vocabulary)
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) == (0, 0, 1)
    assert tokenizer.unk_token is None
    assert tokenizer.model_max_length == 64


def test_merges_follow_the_words(tokenizer):
    assert len(tokenizer.tokenize("12345")) == 5
    assert tokenizer.tokenize("It's")[-1] == "'s"
    for token in tokenizer.get_vocab():
        assert not ("Ċ" in token and any(letter.isalpha() and letter.isascii() for letter in token)), token


@pytest.mark.parametrize("name", OTHERS)
def test_other_cuts_lose_nothing_and_bound_chinese(name):
    """Without the bound of what is learnt, each of these sentences would become one token."""
    sentences = ["这是一个很长的句子没有空格" * 2 + text for text in TEXTS]
    tokenizer = train_byte_level_bpe(sentences, 500, show_progress=False, pre_tokenizer=name)
    assert [tokenizer.decode(tokenizer(text).input_ids) for text in ADVERSARIAL] == ADVERSARIAL
    assert max(sum("一" <= sign <= "龥" for sign in tokenizer.decode([id])) for id in range(500)) == 4
    patterns = {str(step) for step in re.findall(r'Regex":"(.*?)"', tokenizer.backend_tokenizer.to_str())}
    assert patterns == {json.dumps(OTHERS[name])[1:-1]}  # the bound is gone


def test_words_are_found_in_runs_of_chinese():
    words, sentences = chinese_sentences(3000)
    characters = set("".join(words))
    # Two merges make a character of three bytes, one more a word of two characters.
    tokenizer = train_byte_level_bpe(sentences[:-200], 258 + 2 * len(characters) + len(words), show_progress=False)
    tokens = [tokenizer.decode([token]) for text in sentences[-200:] for token in tokenizer(text).input_ids]
    assert sum(token in words for token in tokens) > 0.95 * sum(token not in "，。" for token in tokens)


def test_no_token_joins_chinese_with_latin_or_punctuation():
    tokenizer = train_byte_level_bpe(["使用Python编程，世界 使用Python。ひらがなword"] * 50, 400, show_progress=False)
    tokens = [
        tokenizer.decode([token]) for token in tokenizer("使用Python编程，世界 使用Python。ひらがなword").input_ids
    ]
    assert tokens == ["使用", "Python", "编程", "，", "世界", " 使用", "Python", "。", "ひらがな", "word"]


def test_special_tokens_are_plain_text_on_request(tokenizer):
    assert tokenizer("a<|endoftext|>").input_ids[-1] == 0
    plain = tokenizer("a<|endoftext|>", split_special_tokens=True).input_ids
    assert 0 not in plain
    assert tokenizer.decode(plain) == "a<|endoftext|>"


def test_own_special_tokens_take_the_first_ids():
    tokenizer = train_byte_level_bpe(
        iter(TEXTS),
        300,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=(token for token in ["<|user|>"]),
        show_progress=False,
    )
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "</s>", "<pad>", "<|user|>"]


def test_too_little_text_gives_fewer_tokens_and_a_warning(caplog):
    tokenizer = train_byte_level_bpe(["a line"], 5000, show_progress=False)
    assert len(tokenizer) == 258
    assert caplog.messages == ["The text gives 258 tokens, fewer than vocab_size=5000."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 257}, "vocab_size=257 is below 258, for 256 bytes and 2 special tokens"),
        ({"min_frequency": 0}, "min_frequency=0 must be at least 1"),
        (
            {"pad_token": "<|endoftext|>"},
            r"\['<\|endoftext\|>'\] are given twice; only bos_token and eos_token may be the same token \(got bos",
        ),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        train_byte_level_bpe(["text"], **{"vocab_size": 300, "show_progress": False, **options})


@pytest.mark.parametrize("train", [train_byte_level_bpe, train_unigram])
def test_no_sentence_is_a_token(train):
    """A small corpus repeats its sentences, and without a bound each would become one token."""
    sentences = ["今天天气很好我们去公园散步吧。", "机器学习是人工智能的一个分支。"]
    tokenizer = train(sentences * 10, 600, show_progress=False)
    assert max(len(re.findall(r"[\u3400-\u9fff]", tokenizer.decode([id]))) for id in range(len(tokenizer))) <= 4
    for text in sentences:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text and len(ids) >= 4
