"""Unigram: nothing is lost, and a text is cut in the likeliest way."""

import json
import math
import random

import pytest
from support.tokenizer_texts import ADVERSARIAL, SCALAR_VALUES, TEXTS, chinese_sentences

from trine.tokenization.unigram import train_unigram


SPECIAL = ["<pad>", "</s>", "<unk>", "<s>", "<mask>"]


def train(texts, vocab_size, **options):
    return train_unigram(texts, vocab_size, show_progress=False, **options)


@pytest.fixture(scope="module")
def tokenizer():
    return train(TEXTS, 460, model_max_length=64)


def round_trip(tokenizer, text, **options):
    return tokenizer.decode(tokenizer(text, add_special_tokens=False, **options).input_ids)


@pytest.mark.parametrize("text", [*ADVERSARIAL, "</s> inside <mask>"])
def test_round_trip(tokenizer, text):
    assert round_trip(tokenizer, text) == text
    assert tokenizer.unk_token_id not in tokenizer(text).input_ids


def test_round_trip_of_random_unicode(tokenizer):
    values = [value for value in SCALAR_VALUES if value != 0xFDD0]
    text = "".join(map(chr, random.Random(0).choices(values, k=20_000)))
    assert round_trip(tokenizer, text) == text


def test_the_one_character_that_does_not_come_back(tokenizer):
    assert round_trip(tokenizer, "a\ufdd0") == "a▁"


def test_reserved_pieces_are_plain_text_on_request(tokenizer):
    for text in ("a</s>", "<0x41>", "<mask> x"):
        ids = tokenizer(text, split_special_tokens=True, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text
        assert not {token for token in tokenizer.convert_ids_to_tokens(ids) if len(token) > 3 and token[0] == "<"}


def test_a_text_ends_with_eos(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(5)) == SPECIAL
    a, b = (tokenizer(text, add_special_tokens=False).input_ids for text in ("a line", "你好"))
    assert tokenizer("a line").input_ids == [*a, 1]
    pair = tokenizer("a line", "你好")
    assert pair.input_ids == [*a, 1, *b, 1] and "token_type_ids" not in pair
    assert tokenizer.model_max_length == 64


def test_offsets_cover_the_text(tokenizer):
    text = "It's a line ▁ of\n\t你好 Zürich"
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    spans = dict.fromkeys(encoded.offset_mapping)  # all bytes of a character have its place
    assert "".join(text[start:end] for start, end in spans) == text


def test_unseen_characters_are_bytes(tokenizer):
    assert tokenizer.tokenize("龘") == [f"<0x{byte:02X}>" for byte in "龘".encode()]
    assert all(f"<0x{byte:02X}>" in tokenizer.get_vocab() for byte in range(256))


def test_the_cut_is_the_likeliest(tokenizer):
    """Against the best of all cuts by a plain loop over the scores of the saved file."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    scores = dict(map(tuple, model["vocab"]))
    for word in ("readline", "▁stream", "▁strings", "▁don", "self", "return"):
        best = [0.0] + [-math.inf] * len(word)
        for end in range(1, len(word) + 1):
            best[end] = max(best[start] + scores.get(word[start:end], -math.inf) for start in range(end))
        pieces = tokenizer.tokenize(word.replace("▁", " "))
        assert "".join(pieces) == word
        assert sum(map(scores.__getitem__, pieces)) == pytest.approx(best[-1], abs=1e-9)


def test_words_are_found_in_runs_of_chinese():
    words, sentences = chinese_sentences(3000)
    tokenizer = train(sentences[:-200], 700)
    tokens = [token for text in sentences[-200:] for token in tokenizer.tokenize(text) if token not in "，。"]
    whole = [token for token in tokens if all(token[index : index + 2] in words for index in range(0, len(token), 2))]
    assert len(whole) > 0.95 * len(tokens)


def test_no_piece_joins_chinese_with_latin_or_punctuation():
    words, sentences = chinese_sentences(300)
    rng = random.Random(0)
    texts = [text.replace(words[0], rng.choice(["Python", "Java", " read"])) for text in sentences]
    pieces = [token for token in train(texts, 460).get_vocab() if len(token) > 1 and token not in SPECIAL]
    kinds = [{("一" <= character <= "鿿", character.isalpha()) for character in piece.strip("▁")} for piece in pieces]
    assert {"Python", *words[1:]} <= set(pieces)
    assert all(len(kind) == 1 for kind, piece in zip(kinds, pieces, strict=True) if "<0x" not in piece)


def test_character_coverage():
    """Of 1,000 characters 960 are a frequent one, 30 a second, and ten occur once."""
    text = "的" * 960 + "是" * 30 + "".join(map(chr, range(0x5000, 0x500A)))
    known = {
        coverage: {token for token in train([text], 900, character_coverage=coverage).get_vocab() if len(token) == 1}
        for coverage in (0.5, 0.97, 0.995, 1.0)
    }
    chinese = {coverage: {token for token in tokens if token > "\u2fff"} for coverage, tokens in known.items()}
    assert chinese[0.5] == {"的"} and chinese[0.97] == {"的", "是"}
    assert len(chinese[0.995]) == 2 + 5 and len(chinese[1.0]) == 12
    # Printable ASCII but the space, which is "▁".
    assert known[0.5] - {"的"} == {chr(code) for code in range(0x21, 0x7F)} | {"▁"}


def test_normalization():
    text = "ﬁ ＡＢＣ　１ x²"
    plain, nfkc = train(TEXTS, 460), train(TEXTS, 460, nfkc=True)
    assert round_trip(plain, text) == text
    assert round_trip(nfkc, text) == "fi ABC 1 x2"


def test_the_smallest_vocabulary():
    smallest = 5 + 256 + 95 + 1
    tokenizer = train(["a é"], smallest)
    assert len(tokenizer) == smallest and round_trip(tokenizer, "é: 龘") == "é: 龘"
    with pytest.raises(
        ValueError, match=f"vocab_size={smallest - 1} is below {smallest}, for 5 special tokens and 256"
    ):
        train(["a é"], smallest - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"character_coverage": 0}, "character_coverage=0 must be above 0 and at most 1"),
        ({"character_coverage": 1.5}, "character_coverage=1.5 must be above 0"),
        ({"bos_token": "</s>"}, r"\['</s>'\] are given twice \(got pad_token='<pad>'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        train(["text"], 500, **options)
