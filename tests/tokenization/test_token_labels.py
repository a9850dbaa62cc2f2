"""Labels of tokens are what people read, and say all that the tokens say."""

from transformers import AutoTokenizer

from trine import train_byte_level_bpe, train_unigram, train_wordpiece
from trine.tokenization.token_labels import token_labels


TEXTS = ["the cat sat on the mat", "a dog saw the cat"]


def labels(tokenizer, text):
    return token_labels(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])


def test_bytes_are_put_together():
    tokenizer = train_byte_level_bpe(TEXTS, 300, show_progress=False)
    assert labels(tokenizer, "语a")[:3] == ["语 1/3", "语 2/3", "语 3/3"]
    assert "".join(labels(tokenizer, "the cat\n\tdé")).startswith("the▁cat⏎⇥d")
    assert labels(tokenizer, "é") == ["é 1/2", "é 2/2"]
    assert labels(tokenizer, "🐈") == [f"🐈 {part}/4" for part in range(1, 5)]
    whole = train_byte_level_bpe(["语 语 语"] * 9, 300, show_progress=False)
    assert labels(whole, "语") == ["语"]


def test_bytes_that_are_no_text():
    tokenizer = train_byte_level_bpe(TEXTS, 300, show_progress=False)
    first, *_ = tokenizer("语", add_special_tokens=False)["input_ids"]
    (a,) = tokenizer("a", add_special_tokens=False)["input_ids"]
    assert token_labels(tokenizer, [first, a, first]) == ["\ufffd", "a", "\ufffd"]
    assert token_labels(tokenizer, []) == []


def test_bytes_of_unigram_are_put_together():
    tokenizer = train_unigram(TEXTS, 400, show_progress=False)
    assert labels(tokenizer, "语a🐈")[:-4] == ["语 1/3", "语 2/3", "语 3/3", "a"]
    assert labels(tokenizer, "语a🐈")[-4:] == [f"🐈 {part}/4" for part in range(1, 5)]
    first, *_ = tokenizer("语", add_special_tokens=False)["input_ids"]
    assert token_labels(tokenizer, [first, *tokenizer("a")["input_ids"]]) == ["\ufffd", "a", "</s>"]


def test_special_tokens_are_themselves():
    tokenizer = train_byte_level_bpe(TEXTS, 300, show_progress=False)
    assert token_labels(tokenizer, [tokenizer.eos_token_id, tokenizer.pad_token_id]) == ["<|endoftext|>", "<|pad|>"]


def test_other_kinds_keep_their_marks():
    wordpiece = train_wordpiece(TEXTS, 120, show_progress=False)
    found = labels(wordpiece, "cats")
    assert found[0][0] == "c" and all(label.startswith("##") for label in found[1:])
    unigram = train_unigram(TEXTS, 400, show_progress=False)
    assert "".join(labels(unigram, "the cat")).replace("▁", " ").strip() == "the cat"


def test_a_tokenizer_that_was_saved(tmp_path):
    tokenizer = train_byte_level_bpe(TEXTS, 300, show_progress=False)
    tokenizer.save_pretrained(tmp_path)
    assert labels(AutoTokenizer.from_pretrained(tmp_path), "语 a") == labels(tokenizer, "语 a")
