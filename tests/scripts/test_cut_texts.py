"""What `max_length` cuts off is counted, and told in one line; what is as long by chance is not."""

import json
from types import SimpleNamespace

import pytest

from trine import train_unigram, train_wordpiece
from trine.scripts import finetune_classifier, finetune_lora, finetune_tagger
from trine.scripts.jobs import finetuning, text_pairs
from trine.scripts.jobs.cut_texts import count_cut_rows, encode_cut
from trine.tokenization.records import BadRecords
from trine.training.objectives.labels import OneClass


TEXTS = ["one two", "one two three", "one", "three two one one one"]  # 2, 3, 1 and 5 tokens


@pytest.fixture(scope="module")
def tokenizer():
    """Each word is a token, and there are two more in a text, three in a pair."""
    return train_wordpiece(["one two three"] * 9, 300, show_progress=False)


def test_which_are_cut(tokenizer):
    for limit, cut in ((4, {1, 3}), (5, {3}), (6, {3}), (7, set()), (3, {0, 1, 3})):
        inputs, found = encode_cut(tokenizer, TEXTS, max_length=limit)
        assert found == cut
        assert [*map(len, inputs["input_ids"])] == [min(length, limit) for length in (4, 5, 3, 7)]


def test_pairs_and_words(tokenizer):
    for limit, cut in ((6, {1, 3}), (7, {3}), (9, set())):
        assert encode_cut(tokenizer, TEXTS, ["one"] * 4, max_length=limit)[1] == cut
    words = [text.split() for text in TEXTS]
    assert encode_cut(tokenizer, words, max_length=5, is_split_into_words=True)[1] == {3}


def test_classifiers_and_taggers(tokenizer, capsys):
    labelled = [finetune_classifier.Labelled((text,), "a") for text in TEXTS]
    rows, cut = finetune_classifier.encode(labelled, OneClass(["a", "b"]), tokenizer, 4)
    assert cut == 2
    tagged = [finetune_tagger.Tagged(text.split(), ["O"] * len(text.split())) for text in TEXTS]
    assert finetune_tagger.encode(tagged, ["O"], tokenizer, 5, True)[2] == 1
    counts = finetuning.count_records(4, (rows[:3], rows[3:]), BadRecords(), cut, 4)
    assert counts["truncated_records"] == 2
    assert capsys.readouterr().out == "2 of 4 records are cut off after max_length=4 tokens.\n"


def test_translations_are_cut_on_either_side():
    """Of their sources or of their targets."""
    tokenizer = train_unigram(["one two three"], 400, show_progress=False)
    length = {text: len(tokenizer(text)["input_ids"]) for text in TEXTS}
    ends = SimpleNamespace(decoder_start_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    model = SimpleNamespace(config=ends, generation_config=SimpleNamespace(forced_bos_token_id=None))
    pairs = [text_pairs.Pair(*texts) for texts in (("one", "one"), ("one", TEXTS[3]), (TEXTS[3], "one"))]
    for limit, cut in ((length["one"] - 1, 3), (length["one"], 2), (length[TEXTS[3]] - 1, 2), (length[TEXTS[3]], 0)):
        rows, found = text_pairs.encode(pairs, text_pairs.Tokenizers(tokenizer, tokenizer), model, limit)
        assert found == cut and max(len(row["labels"]) for row in rows) <= limit


def test_embeddings(tokenizer, capsys):
    pairs = [("one", "one two three"), (TEXTS[3], "one"), ("one two", "one"), (TEXTS[3], TEXTS[3])]
    assert count_cut_rows(tokenizer, pairs[:1], pairs[1:], max_length=4) == 3
    assert capsys.readouterr().out == "3 of 4 pairs are cut off after max_length=4 tokens.\n"
    assert count_cut_rows(tokenizer, pairs, max_length=9) == 0
    assert capsys.readouterr().out == ""


def test_instructions(tmp_path, capsys):
    """Those that have nothing to learn left are bad records, not texts that are cut off."""
    tokenizer = train_unigram(["one two three"], 400, show_progress=False)
    records = [*zip(("one", "two", "three", "two one"), TEXTS, strict=True)]
    lengths = [len(finetune_lora.encode_completion(tokenizer, *record)["input_ids"]) for record in records]
    lines = [json.dumps({"prompt": prompt, "completion": text}) for prompt, text in [*records, ("two " * 99, "x")]]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    arguments = SimpleNamespace(
        format="completion",
        files=[str(tmp_path / "a.jsonl")],
        validation_files=[],
        validation_fraction=0.2,
        skip_bad_records=True,
        max_length=sorted(lengths)[-2],  # no more than that of one record
        prompt_template="{prompt}",
        prompt_field="prompt",
        completion_field="completion",
        prefix_lm=False,
    )
    with pytest.warns(UserWarning, match="1 records cannot be used"):
        *_, metrics = finetune_lora.read_data(arguments, tokenizer, 0)
    assert metrics["truncated_records"] == 1
    assert f"1 of 4 records are cut off after max_length={arguments.max_length} tokens." in capsys.readouterr().out
