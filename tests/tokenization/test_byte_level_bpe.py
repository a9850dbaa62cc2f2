"""Byte-level BPE: what it promises to people who only have the saved folder."""

import json
import random
import subprocess
import sys

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from trine.tokenization.training import train_byte_level_bpe


TEXTS = [
    "It's the reader who don't see 12345 'strings' in a line.\n    return self.value\n",
    'def read_line(self, size=-1):\n    """Read a line from the stream."""\n\n    return self.readline(size)\n',
    "Tschüß, die Straße in Zürich. 你好，世界。नमस्ते दुनिया।\r\n",
] * 20

UNICODE = [
    "plain text",
    " leading, trailing and  double   spaces \n\n\n\t\tand tabs\r\n\r",
    "你好，世界。这是一个测试。",
    "👩‍👩‍👧‍👦 🇨🇭 👍🏽",
    "e\u0301 is not \u00e9, \ufb01 is not fi, \u212b is not \u00c5",
    "नमस्ते ते\u200cकी \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\x00\x01\x1f\x7f\x80\x9f\u2028\u2029\ufeff\ufffd\u200b",
    "\U0010ffff\U000e0001\ue000",
    "<|endoftext|> inside <|pad|>",
    "",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(TEXTS, 400, show_progress=False, model_max_length=64)


@pytest.mark.parametrize("text", UNICODE)
def test_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_round_trip_of_random_unicode(tokenizer):
    scalar_values = [*range(0xD800), *range(0xE000, 0x110000)]
    text = "".join(map(chr, random.Random(0).choices(scalar_values, k=20_000)))
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
    assert len(tokenizer) == tokenizer.vocab_size == 400
    assert set(ByteLevel.alphabet()) <= set(vocabulary)
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) == (0, 0, 1)
    assert tokenizer.unk_token is None
    assert tokenizer.model_max_length == 64


def test_merges_follow_the_words(tokenizer):
    assert len(tokenizer.tokenize("12345")) == 5
    assert tokenizer.tokenize("It's")[-1] == "'s"
    for token in tokenizer.get_vocab():
        assert not ("Ċ" in token and any(letter.isalpha() and letter.isascii() for letter in token)), token


def test_special_tokens_are_plain_text_on_request(tokenizer):
    assert tokenizer("a<|endoftext|>").input_ids[-1] == 0
    plain = tokenizer("a<|endoftext|>", split_special_tokens=True).input_ids
    assert 0 not in plain
    assert tokenizer.decode(plain) == "a<|endoftext|>"


def test_reload_in_a_process_without_the_package(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "TokenizersBackend"
    program = (
        "import json, sys\n"
        "sys.modules['trine'] = None\n"
        "from transformers import AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(tmp_path)!r})\n"
        "texts = json.load(sys.stdin)\n"
        "print(json.dumps([type(tokenizer).__name__, tokenizer(texts).input_ids, tokenizer.model_max_length,\n"
        "                  tokenizer.special_tokens_map]))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(UNICODE), capture_output=True, text=True, check=True
    )
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    assert json.loads(answer.stdout) == ["TokenizersBackend", tokenizer(UNICODE).input_ids, 64, special]


def test_chat_template_and_own_special_tokens(tmp_path):
    from transformers import AutoTokenizer

    template = "{% for message in messages %}<|user|>{{ message.content }}{{ eos_token }}{% endfor %}"
    train_byte_level_bpe(
        iter(TEXTS),
        300,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=(token for token in ["<|user|>"]),
        show_progress=False,
        chat_template=template,
    ).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "</s>", "<pad>", "<|user|>"]
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "a line"}])["input_ids"]
    assert ids == [3, *tokenizer("a line").input_ids, 1]


def test_too_little_text_gives_fewer_tokens_and_a_warning():
    from transformers.utils import logging

    logger = logging.get_logger("trine.tokenization.training")
    records = []
    logger.addFilter(lambda record: records.append(record.getMessage()) or False)
    try:
        tokenizer = train_byte_level_bpe(["a line"], 5000, show_progress=False)
    finally:
        logger.filters.clear()
    assert len(tokenizer) == 258
    assert records == ["The text has 258 tokens at min_frequency=2, fewer than vocab_size=5000."]


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        (["text"], {"vocab_size": 257}, ValueError, "vocab_size=257 is below 258"),
        (["text"], {"vocab_size": 300, "min_frequency": 0}, ValueError, "min_frequency=0 must be at least 1"),
        ([], {"vocab_size": 300}, ValueError, "no text"),
        (["", ""], {"vocab_size": 300}, ValueError, "no text"),
        ("text", {"vocab_size": 300}, TypeError, "is one str"),
        (["text", 7], {"vocab_size": 300}, TypeError, r"texts\[1\] is of type int"),
        (["text"], {"vocab_size": 300, "pad_token": "<|endoftext|>"}, ValueError, "given twice"),
        (["text"], {"vocab_size": 300, "extra_special_tokens": ["<a>", "<a>"]}, ValueError, r"\['<a>'\] are given"),
        (["text"], {"vocab_size": 300, "eos_token": ""}, ValueError, "is empty"),
    ],
)
def test_errors(texts, options, error, message):
    with pytest.raises(error, match=message):
        train_byte_level_bpe(texts, show_progress=False, **options)
