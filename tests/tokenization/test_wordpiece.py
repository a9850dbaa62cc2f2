"""WordPiece: it is BERT's, no character that was seen is unknown, and Chinese comes back without spaces."""

import pytest
from support.tokenizer_texts import ADVERSARIAL, TEXTS
from transformers import BertTokenizer

from trine.tokenization.wordpiece import train_wordpiece


# The example of Sennrich et al. 2016, section 3.2: words and how often they occur.
SENNRICH = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3


def train(texts, vocab_size, **options):
    return train_wordpiece(texts, vocab_size, show_progress=False, **options)


@pytest.fixture(scope="module")
def tokenizer():
    return train(TEXTS, 200, model_max_length=64)


@pytest.mark.parametrize("lowercase", [True, False])
def test_encoding_equals_that_of_bert(lowercase):
    tokenizer = train([*TEXTS, "Ein Über-Text"], 400, lowercase=lowercase)
    bert = BertTokenizer(vocab=tokenizer.get_vocab(), do_lower_case=lowercase)
    for text in [*ADVERSARIAL, *TEXTS[:3], "Read a LINE, über Zürich", "a" * 101, "[CLS] inside [MASK]"]:
        for pair in (None, "die Straße", ""):
            expected = bert(text, pair, return_offsets_mapping=True, return_special_tokens_mask=True)
            assert dict(tokenizer(text, pair, return_offsets_mapping=True, return_special_tokens_mask=True)) == dict(
                expected
            )


def test_pairs_have_segment_ids(tokenizer):
    encoded = tokenizer("read", "a line")
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == ["[CLS]", "read", "[SEP]", "a", "line", "[SEP]"]
    assert encoded.token_type_ids == [0, 0, 0, 1, 1, 1]
    assert tokenizer.pad([encoded, tokenizer("read")]).token_type_ids[1] == [0] * 6


def test_special_tokens(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id] == [0, 1, 4]
    assert len(tokenizer) == 200 and tokenizer.model_max_length == 64
    own = train(TEXTS, 400, pad_token="<p>", cls_token="<c>", sep_token="<s>", unk_token="<u>", mask_token="<m>")
    assert own.convert_ids_to_tokens(own("龘").input_ids) == ["<c>", "<u>", "<s>"]


def test_merges_are_those_of_the_paper():
    """Merged are e-s, es-t, l-o, lo-w and so on; "lowest", which does not occur, is cut as there."""
    tokenizer = train(SENNRICH, 250)
    assert tokenizer.tokenize("low newest lowest widest") == ["low", "newest", "low", "##est", "widest"]


def test_merges_equal_slow_ones():
    """The counts are such that no two pairs are equally frequent."""
    counts = {"abab": 50, "abcab": 31, "cab": 17}
    tokenizer = train([word for word, count in counts.items() for _ in range(count)], 5000, min_frequency=10)
    words = {word: ["^", *word] for word in counts}
    merged = set()
    while True:
        pairs = {}
        for word, parts in words.items():
            for pair in zip(parts, parts[1:], strict=False):
                pairs[pair] = pairs.get(pair, 0) + counts[word]
        best = max(pairs, key=pairs.__getitem__, default=None)
        if best is None or pairs[best] < 10:
            break
        merged.add("".join(best))
        for parts in words.values():
            for index in range(len(parts) - 2, -1, -1):
                if tuple(parts[index : index + 2]) == best:
                    parts[index : index + 2] = ["".join(best)]
    expected = {token[1:] if token[0] == "^" else "##" + token for token in merged}
    learnt = {token for token in tokenizer.get_vocab() if len(token.removeprefix("##")) > 1 and token[0] != "["}
    assert learnt == {token for token in expected if len(token) > 1}


def test_no_chinese_character_of_the_text_is_lost():
    """6,000 characters that occur once each: as many as Chinese has in use, more than a trainer keeps by default."""
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 6000)]
    text = "".join(characters)
    tokenizer = train([text[:3000], text[3000:], "，", "word"], 6200)
    assert tokenizer.tokenize(text) == characters
    assert not [token for token in tokenizer.get_vocab() if token.startswith("##") and token[2] in text]
    assert tokenizer.decode(tokenizer("中国，北京 word").input_ids, skip_special_tokens=True) == "中国，北京 word"
    assert tokenizer.tokenize(chr(0x4E00 + 6000)) == ["[UNK]"]


def test_a_character_of_the_text_is_known_anywhere_in_a_word():
    tokenizer = train(["ɐb ʇq"], 400)
    assert tokenizer.tokenize("bɐʇ ʇʇ qɐ zz9") == ["b", "##ɐ", "##ʇ", "ʇ", "##ʇ", "q", "##ɐ", "z", "##z", "##9"]


def test_case():
    assert train(["Zürich"], 400).tokenize("ZÜRICH") == train(["Zürich"], 400).tokenize("zurich")
    cased = train(["Zürich Zürich"], 400, lowercase=False)
    assert cased.tokenize("Zürich") == ["Zürich"] and len(cased.tokenize("zürich")) > 1


def test_decoding_drops_only_the_spaces_that_it_put_in(tokenizer):
    assert tokenizer.decode(tokenizer("你好，世界 read a line.").input_ids, skip_special_tokens=True) == (
        "你好，世界 read a line."
    )


def test_the_vocabulary_must_hold_the_characters():
    with pytest.raises(ValueError, match="vocab_size=4 is below 5, for 5 special tokens"):
        train(["text"], 4)
    # ASCII has 94 signs, of which 32 are punctuation and cannot stand within a word; 26 more are upper case.
    needed = 94 - 26 + 36 + 100
    text = "".join(map(chr, range(0x4E00, 0x4E64)))
    with pytest.raises(
        ValueError, match=f"vocab_size=100 is below {5 + needed}, for 5 special tokens and {needed} ch"
    ):
        train([text], 100)
    assert len(train([text], 5 + needed)) == 5 + needed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_frequency": 0}, "min_frequency=0 must be at least 1"),
        ({"mask_token": "[SEP]"}, r"\['\[SEP\]'\] are given twice \(got pad_token='\[PAD\]', unk_token"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        train(["text"], 400, **options)
