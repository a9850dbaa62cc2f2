"""Tokens that texts do not need go; the texts are cut as before, and give the same outputs."""

import json
import random
import re
from copy import deepcopy

import pytest
import torch
from support.encoders import encoder
from support.messages import unseen
from support.tiny import tiny_model
from support.translators import tiny_translator
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from trine import (
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineForSequenceClassification,
    lift,
    train_byte_level_bpe,
    train_unigram,
    train_wordpiece,
)
from trine.conversion import pieces, smaller_vocabulary
from trine.conversion.lifts.smaller_vocabulary import SmallerVocabularyLift, check_cuts
from trine.conversion.pieces import NEEDED, derive, find_kept, shrink
from trine.scripts import lift as command


WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "unbelievable",
    "transformers",
    "read",
    "thousands",
    "of",
    "rest",
]
DRAW = random.Random(0)
CORPUS = [" ".join(DRAW.choices(WORDS, k=9)) + ("." if DRAW.random() < 0.5 else "!") for _ in range(60)] * 3
CORPUS += ["猫坐在垫子上。", "Ünïcödé and émigré"] * 9
TEXTS = [*CORPUS[:4], "the émigré sat", "猫 reads", "xylophone ☃ unseen"]
SPECIAL = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]


def of_library(model, trainer, normalizer=None, decoder=None, pre_tokenizer=None, **names):
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.decoder = normalizer, decoder
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.BertProcessing(*((t, tokenizer.token_to_id(t)) for t in ("[SEP]", "[CLS]")))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", **names
    )


def with_ends_of_words():
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, end_of_word_suffix="</w>")
    decoder = decoders.BPEDecoder(suffix="</w>")
    return of_library(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"), trainer, decoder=decoder)


def with_byte_fallback():
    """As Llama 2 and Mistral: merges of characters, and bytes for what is unknown."""
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=tokens)
    space = normalizers.Replace(" ", "\u2581")
    decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return of_library(
        models.BPE(unk_token="[UNK]", byte_fallback=True, fuse_unk=True),
        trainer,
        normalizer=space,
        decoder=decoder,
        pre_tokenizer=pre_tokenizers.Split("\u2581", "merged_with_next"),
    )


def of_whole_words():
    return of_library(models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer(special_tokens=SPECIAL))


TOKENIZERS = {
    "byte-level": lambda: train_byte_level_bpe(CORPUS, 500, show_progress=False),
    "wordpiece": lambda: train_wordpiece(CORPUS, 400, show_progress=False),
    "unigram": lambda: train_unigram(CORPUS, 450, language_tags=["zh"], show_progress=False),
    "ends of words": with_ends_of_words,
    "byte fallback": with_byte_fallback,
    "whole words": of_whole_words,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def test_texts_are_cut_as_before_and_others_can_be_spelled(tokenizer):
    kept, rows = find_kept(tokenizer, TEXTS)
    assert [list(row) for row in rows] == tokenizer(TEXTS)["input_ids"]
    smaller = shrink(tokenizer, kept)
    assert len(smaller) == len(kept) < len(tokenizer)
    for text in TEXTS:
        old, new = tokenizer(text)["input_ids"], smaller(text)["input_ids"]
        assert [kept[token] for token in new] == old
        assert smaller.convert_ids_to_tokens(new) == tokenizer.convert_ids_to_tokens(old)
        assert smaller.decode(new) == tokenizer.decode(old)
    names = tokenizer.convert_ids_to_tokens(kept)
    assert smaller.convert_ids_to_tokens([*range(len(kept))]) == names
    assert smaller.special_tokens_map == tokenizer.special_tokens_map
    for token in [*tokenizer.all_special_tokens, *(f"<0x{byte:02X}>" for byte in range(256))]:
        assert token in names or token not in tokenizer.get_vocab()
    for text in CORPUS[4:40]:  # of ASCII: in more pieces, without a loss
        assert len(smaller(text)["input_ids"]) >= len(tokenizer(text)["input_ids"])
        if "[UNK]" not in smaller.convert_ids_to_tokens(smaller(text)["input_ids"]):
            assert smaller.decode(smaller(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])


def test_it_survives_saving(tokenizer, tmp_path):
    smaller = shrink(tokenizer, find_kept(tokenizer, TEXTS)[0])
    smaller.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert [loaded(text)["input_ids"] for text in TEXTS] == [smaller(text)["input_ids"] for text in TEXTS]


def test_an_unknown_word_stays_unknown():
    """Without the piece that it begins with, it would be cut otherwise, and found."""
    vocabulary = {name: place for place, name in enumerate([*SPECIAL, "ab", "a", "##bd", "x"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    texts = ["abd x", "a"]
    assert tokenizer(texts[0])["input_ids"] == [0, vocabulary["x"]]
    kept, _ = find_kept(tokenizer, texts, also=[vocabulary["##bd"]])
    assert vocabulary["ab"] in kept
    assert [kept[token] for token in shrink(tokenizer, kept)(texts[0])["input_ids"]] == [0, vocabulary["x"]]


def test_only_texts_with_unknown_words_are_looked_at_twice(monkeypatch):
    looked: list[str] = []
    monkeypatch.setattr(pieces, "beginnings", lambda word, *_: looked.append(word) or set())
    find_kept(TOKENIZERS["wordpiece"](), ["the cat", "a \u4e00 mat"])
    assert looked == ["a", "\u4e00", "mat"]


def test_lines_are_those_of_plain_files_and_texts_come_once(tmp_path):
    (tmp_path / "plain.txt").write_text("one\ntwo\n", encoding="utf-8")
    records = [{"a": "three\nfour", "b": "five"}, {"a": "five", "b": "one"}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    files = [str(tmp_path / name) for name in ("plain.txt", "r.jsonl")]
    made = SmallerVocabularyLift(files=files, text_fields=["a", "b"], texts=["two", " "])
    assert made.read_texts() == ["two", "one\ntwo\n", "one", "three\nfour", "five"]


def test_the_way_of_merges_to_a_piece():
    ranks = {pair: rank for rank, pair in enumerate([("b", "c"), ("a", "bc"), ("a", "b"), ("abc", "d</w>")])}
    assert derive("abc", ranks, "", "") == {"a", "b", "c", "bc", "abc"}
    assert derive("abcd</w>", ranks, "", "</w>") == {"a", "b", "c", "d</w>", "bc", "abc", "abcd</w>"}
    marked = {("a", "##b"): 0, ("##b", "##c"): 1}
    assert derive("##bc", marked, "##", "") == {"##b", "##c", "##bc"} and derive("ab", marked, "##", "") == {
        "a",
        "##b",
        "ab",
    }


def with_two_tables(**fields):
    config = deepcopy(tiny_translator(**fields).config)
    config.share_embeddings = config.tie_word_embeddings = False
    return TrineForConditionalGeneration(config).double().eval()


MODELS = {
    "encoder": lambda **fields: encoder(**fields, dtype=torch.float32),
    "masked": lambda **fields: tiny_model(TrineForMaskedLM, is_causal=False, **fields),
    "tied": lambda **fields: tiny_model(tie_word_embeddings=True, **fields),
    "untied": lambda **fields: tiny_model(tie_word_embeddings=False, **fields),
    "classifier": lambda **fields: tiny_model(TrineForSequenceClassification, is_causal=False, **fields),
    "two stacks": lambda **fields: tiny_translator(**fields),
    "two tables": lambda **fields: with_two_tables(**fields),
}


@pytest.mark.parametrize("kind", MODELS)
def test_states_are_equal_to_the_last_bit(kind):
    tokenizer = TOKENIZERS["wordpiece"]()
    model = MODELS[kind](vocab_size=len(tokenizer) + 7, pad_token_id=tokenizer.pad_token_id)
    small, smaller = smaller_vocabulary(model, tokenizer, TEXTS)
    assert type(small) is type(model) and small.config.vocab_size == len(smaller) < len(tokenizer)
    assert small.num_parameters() < model.num_parameters()
    kept = torch.tensor(tokenizer.convert_tokens_to_ids(smaller.convert_ids_to_tokens([*range(len(smaller))])))
    before, after = (each(TEXTS, padding=True, return_tensors="pt") for each in (tokenizer, smaller))
    before, after = ({name: each[name] for name in ("input_ids", "attention_mask")} for each in (before, after))
    if kind.startswith("two"):
        before, after = ({**each, "decoder_input_ids": each["input_ids"]} for each in (before, after))
    outputs, smalls = (each(**inputs, output_hidden_states=True) for each, inputs in ((model, before), (small, after)))
    for name in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states"):
        assert all(map(torch.equal, outputs.get(name, ()), smalls.get(name, ())))
    if kind in ("encoder", "classifier"):
        assert torch.equal(outputs[0], smalls[0])
    else:  # a product of another size is rounded otherwise
        torch.testing.assert_close(outputs.logits[..., kept], smalls.logits, rtol=0, atol=1e-12)
    assert smaller.convert_ids_to_tokens(small.config.pad_token_id) == "[PAD]"


def test_settings_of_generation_name_the_same_tokens():
    tokenizer = TOKENIZERS["byte-level"]()
    end, other, rare = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("t"), len(tokenizer) - 1
    model = tiny_model(vocab_size=len(tokenizer), eos_token_id=[end, rare])
    model.generation_config.update(suppress_tokens=[other, rare - 1], forced_eos_token_id=end)
    small, smaller = smaller_vocabulary(model, tokenizer, ["the cat"])
    names = [tokenizer.convert_ids_to_tokens(end), tokenizer.convert_ids_to_tokens(rare)]
    for settings in (small.config, small.generation_config):
        assert smaller.convert_ids_to_tokens(settings.eos_token_id) == names
    assert smaller.convert_ids_to_tokens(small.generation_config.suppress_tokens) == ["t"]
    assert smaller.convert_ids_to_tokens(small.generation_config.forced_eos_token_id) == names[0]
    assert model.generation_config.suppress_tokens == [other, rare - 1]
    ids = tokenizer("the cat", return_tensors="pt")["input_ids"], smaller("the cat", return_tensors="pt")["input_ids"]
    assert ids[0].shape == ids[1].shape


def test_the_command_writes_model_and_tokenizer(tmp_path, capsys):
    tokenizer = TOKENIZERS["unigram"]()
    model = encoder(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, dtype=torch.float32)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "modules.json").write_text("[]", encoding="utf-8")
    records = [{"a": text, "b": text.upper()} for text in CORPUS[:3]]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    (tmp_path / "plain.txt").write_text("the cat\nsat on a mat\n", encoding="utf-8")
    words = [
        str(tmp_path / "source"),
        str(tmp_path / "small"),
        "--to",
        "smaller_vocabulary",
        "--text_fields",
        "a",
        "b",
    ]
    command.main([*words, "--files", str(tmp_path / "r.jsonl"), str(tmp_path / "plain.txt")])
    small, smaller = (kind.from_pretrained(tmp_path / "small") for kind in (AutoModel, AutoTokenizer))
    assert (tmp_path / "small" / "modules.json").is_file()
    printed = capsys.readouterr().out
    assert (
        f"Tokens: {len(tokenizer):,} before, {len(smaller):,} now\nParameters: {model.num_parameters():,} before,"
        in printed
    )
    assert re.search(r"random tokens, texts of up to \d+ tokens: 0\n", printed)
    for text in (*(text for record in records for text in record.values()), "the cat", "sat on a mat"):
        states = [
            each[0](**dict(each[1](text, return_tensors="pt"))) for each in ((model, tokenizer), (small, smaller))
        ]
        assert torch.equal(states[0].last_hidden_state, states[1].last_hidden_state)


class Slow(PreTrainedTokenizer):
    """A tokenizer without a `tokenizer.json`."""

    vocab_size = 1

    def get_vocab(self):
        return {"a": 0}


def too_small():
    return tiny_model(vocab_size=9)


def of_generation():
    model = tiny_model(vocab_size=500)
    model.generation_config.bad_words_ids = [[5, 6]]
    return model


def run(make=lambda: tiny_model(vocab_size=500), **options):
    return lift(make(), "smaller_vocabulary", **{"tokenizer": TOKENIZERS["wordpiece"](), "texts": TEXTS, **options})


def measure_another_text():
    made = SmallerVocabularyLift(tokenizer=TOKENIZERS["wordpiece"](), texts=["a cat"])
    made.apply(tiny_model(vocab_size=500))
    made.renumber(made.load_tokenizer()(CORPUS[0], return_tensors="pt")["input_ids"])


def read_two_tokenizers(folder):
    (folder / "target_tokenizer").mkdir(exist_ok=True)
    SmallerVocabularyLift().read_companions(folder)


def cut_otherwise():
    tokenizer = TOKENIZERS["wordpiece"]()
    kept, rows = find_kept(tokenizer, TEXTS)
    check_cuts(shrink(tokenizer, kept[:-1]), kept, TEXTS, rows)


def of_another_kind(monkeypatch):
    monkeypatch.delitem(NEEDED, "WordPiece")
    run()


ERRORS = {
    "files=[] have no text whose tokens could be kept.": lambda *_: run(texts=[" "]),
    "tokenizer=None: the lift 'smaller_vocabulary' needs the model's": lambda *_: run(tokenizer=None),
    "The tokenizer has ids up to 172, and the model vocab_size=[9]: each": lambda *_: run(
        lambda: tiny_model(vocab_size=9)
    ),
    "bad_words_ids=[[5, 6]] of the generation config has tokens that may go.": lambda *_: run(of_generation),
    "Slow has no tokenizer.json, whose pieces could be": lambda *_: run(tokenizer=Slow(unk_token="a")),
    "of a text are not kept, so that its states would differ.": lambda *_: measure_another_text(),
    "has a second tokenizer, 'target_tokenizer': make the vocabulary": lambda path, _: read_two_tokenizers(path),
    " cuts the text '": lambda *_: cut_otherwise(),
    "The tokenizer is of the type 'WordPiece', which is not one of ['BPE', ": lambda _, patch: of_another_kind(patch),
}


def message_of(make, *places) -> str:
    with pytest.raises(ValueError) as refused:
        make(*places)
    return str(refused.value)


@pytest.mark.parametrize("message", ERRORS)
def test_what_cannot_be_made_smaller(message, tmp_path, monkeypatch):
    assert message in message_of(ERRORS[message], tmp_path, monkeypatch)


def test_every_error_is_tested(tmp_path, monkeypatch):
    messages = [message_of(make, tmp_path, monkeypatch) for make in ERRORS.values()]
    places = unseen("conversion", messages)
    assert [place for place in places if "pieces.py" in place or "smaller_vocabulary" in place] == []


def test_an_empty_file_is_one_line(tmp_path):
    """As a command says it."""
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    tokenizer = TOKENIZERS["wordpiece"]()
    for part in (encoder(vocab_size=len(tokenizer), dtype=torch.float32), tokenizer):
        part.save_pretrained(tmp_path / "source")
    words = [str(tmp_path / "source"), str(tmp_path / "small"), "--to", "smaller_vocabulary"]
    with pytest.raises(SystemExit, match="trine: files=.*empty.txt'] have no text whose tokens could be kept."):
        command.main([*words, "--files", str(tmp_path / "empty.txt")])
    with pytest.raises(SystemExit, match="trine: files=.. have no text whose tokens could be kept."):
        command.main(words)
    assert not (tmp_path / "small").exists()
