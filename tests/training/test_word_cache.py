"""Looking words up gives what the tokenizer gives for the whole text, whatever is in it."""

import random
from array import array

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import TokenizersBackend

from trine import train_byte_level_bpe, train_unigram, train_wordpiece
from trine.training.data import word_cache
from trine.training.data.word_cache import BORDER, TokenEncoder


TEXTS = [
    "A line.\nAnd more,  with   spaces \n  and\ttabs \t at ends. \n\n\n Next:\r\n  x",
    "It's don't 'quoted' 12 345  6 <|endoftext|> http://example.org/a?b=c",
    "南京市长江大桥 很长。 ひらがな と カタカナ\u3000全角 一 二\n三",
    " leading",
    "trailing ",
    "",
    " ",
    "\n",
    "  \n \n",
    "é\u0301 naïve \u00a0nbsp\u2003em \x0b\x0c\x85\u2028end 🙂 🙂🙂",
    "a" * 100 + " b " + "c" * 100,
]


def reference(tokenizer, texts) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in texts]


def ids(encoded: list[bytes]) -> list[list[int]]:
    return [array("i", part).tolist() for part in encoded]


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(TEXTS * 3, 400, show_progress=False)


def noise(number: int) -> str:
    """A text that is mostly borders."""
    chooser = random.Random(number)
    return "".join(chooser.choices("   \t\n\n\r\u3000\u00a0\u2003\x0b\x0c\x85\x1cab'1.一é<", k=60))


def test_words_are_the_whole_text():
    for text in [*TEXTS, *map(noise, range(200))]:
        assert "".join(BORDER.split(text)) == text


def gpt2_like(tokenizer):
    """The same vocabulary with the pattern of GPT-2, which takes runs of digits and knows no Chinese."""
    other = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return TokenizersBackend(tokenizer_object=other)


@pytest.mark.parametrize("pattern", ["ours", "GPT-2's"])
def test_looking_up_equals_the_whole_text(tokenizer, pattern):
    tokenizer = tokenizer if pattern == "ours" else gpt2_like(tokenizer)
    encoder, texts = TokenEncoder(tokenizer), [*TEXTS, *map(noise, range(300))]
    expected = reference(tokenizer, texts)
    assert ids(encoder(texts)) == expected and encoder.looks_up and len(encoder.words) > 100
    assert all(len(word) <= word_cache.LONGEST_WORD for word in encoder.words)
    encoder.encode = lambda texts: [b"" for _ in texts if len(_) <= word_cache.LONGEST_WORD]  # nothing short is new
    short = [text for text in texts if all(len(word) <= word_cache.LONGEST_WORD for word in BORDER.split(text))]
    assert ids(encoder(short)) == reference(tokenizer, short)


def test_the_memory_of_words_has_a_limit(tokenizer, monkeypatch):
    monkeypatch.setattr(word_cache, "MOST_WORDS", 5)
    encoder = TokenEncoder(tokenizer)
    for text in TEXTS:
        assert ids(encoder([text])) == reference(tokenizer, [text])
    assert len(encoder.words) < 30


@pytest.mark.parametrize("train", [train_wordpiece, train_unigram])
def test_other_tokenizers_take_texts_whole(train):
    other = train(TEXTS * 3, 600, show_progress=False)
    encoder = TokenEncoder(other)
    assert not encoder.looks_up
    assert ids(encoder(TEXTS)) == reference(other, TEXTS)


def test_a_pattern_that_reaches_over_words_is_noticed(tokenizer):
    other = Tokenizer(models.BPE(*bpe_of_two_words()))
    whole = pre_tokenizers.Split(Regex("\n"), "isolated")
    other.pre_tokenizer = pre_tokenizers.Sequence([whole, pre_tokenizers.ByteLevel(False, use_regex=False)])
    other = TokenizersBackend(tokenizer_object=other)
    encoder = TokenEncoder(other)
    assert encoder.looks_up
    assert ids(encoder(["a b", "a"])) == reference(other, ["a b", "a"]) == [[4], [0]]
    assert not encoder.looks_up and ids(encoder(["a b"])) == [[4]]


def bpe_of_two_words():
    return {"a": 0, "b": 1, "Ġ": 2, "Ġb": 3, "aĠb": 4}, [("Ġ", "b"), ("a", "Ġb")]
