"""Vectors of words: against numpy and transformers alone, for every kind of tokenizer, and what is refused."""

import gzip
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from gensim.models import KeyedVectors
from sentence_transformers import SentenceTransformer
from support.tiny import SIZES
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineModel,
    TrineSeq2SeqConfig,
    train_byte_level_bpe,
    train_wordpiece,
)
from trine.inspection import word_vectors
from trine.inspection.word_contexts import cosines_between, cosines_to_words, find_word, word_uses
from trine.inspection.word_lookup import look_up, parse_equation, parse_expression
from trine.inspection.word_map import plane
from trine.inspection.word_pieces import is_unspaced
from trine.inspection.words import read_vectors


NAMES = "king queen man woman apple banana fruit company phone river house bird"
TEXTS = [f"the {a} saw a {b} by the river, and ate it" for a in NAMES.split() for b in NAMES.split()]
TEXTS += ["我吃了一个苹果和香蕉", "苹果公司卖手机", "苹果是水果"] * 20


def xlm_roberta_like():
    """A tokenizer of SentencePiece's kind, which puts a blank before every text: words begin with ▁, Chinese not."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "苹果", "水果", "公司", *(f"▁{word}" for word in NAMES.split())]
    pieces += ["▁the", *"abcdefghijklmnopqrstuvwxyz,我吃了一个和香蕉卖手机苹果是水公司"]
    model = Unigram([(piece, -1.0 * place) for place, piece in enumerate(dict.fromkeys(pieces))], unk_id=3)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = Metaspace(prepend_scheme="always")
    tokenizer.decoder = MetaspaceDecoder(prepend_scheme="always")
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


TOKENIZERS = {
    "wordpiece": lambda: train_wordpiece(TEXTS, 200, show_progress=False),
    "bpe": lambda: train_byte_level_bpe(TEXTS, 500, show_progress=False),
    "unigram": xlm_roberta_like,
}
SPELT = {"wordpiece": lambda word: word, "bpe": lambda word: f" {word}", "unigram": lambda word: word}


@pytest.fixture(scope="module")
def tokenizers():
    return {name: make() for name, make in TOKENIZERS.items()}


def encoder(tokenizer, seed=0, **fields):
    torch.manual_seed(seed)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return TrineModel(TrineConfig(**{**sizes, "is_causal": False, "export_code": False, **fields})).eval()


@pytest.fixture(scope="module")
def english(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    model = encoder(tokenizer)
    return model, tokenizer, word_vectors(model, tokenizer)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_words_of_one_token_have_its_embedding(tokenizers, name):
    tokenizer = tokenizers[name]
    model = encoder(tokenizer)
    vectors = word_vectors(model, tokenizer)
    table = model.get_input_embeddings().weight.detach().numpy()
    assert {"king", "banana", "the"} <= {*vectors.key_to_index} and "," not in vectors
    for word in vectors.index_to_key:
        text = word if is_unspaced(word[0]) else SPELT[name](word)
        ids = [
            index
            for index in tokenizer(text, add_special_tokens=False)["input_ids"]
            if tokenizer.convert_ids_to_tokens(index) != "▁"
        ]
        assert len(ids) == 1 and np.array_equal(vectors[word], table[ids[0]]), word
        assert vectors.get_vecattr(word, "pieces") == 1
    ids = [vectors.get_vector(word) for word in vectors.index_to_key]
    order = [int(np.flatnonzero((table == row).all(1))[0]) for row in ids]
    assert order == sorted(order), "the order of the vocabulary"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_word_of_several_pieces_has_their_mean(tokenizers, name):
    tokenizer = tokenizers[name]
    model = encoder(tokenizer)
    for word in ("kingbird", "apple house", "苹果公司卖"):
        text = word if is_unspaced(word[0]) else SPELT[name](word)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = [index for index in ids if tokenizer.convert_ids_to_tokens(index) != "▁"]
        expected = model.get_input_embeddings().weight.detach()[ids].double().mean(0)
        found = word_vectors(model, tokenizer, [word])
        np.testing.assert_allclose(found[word], expected.numpy(), atol=1e-7)
        assert found.get_vecattr(word, "pieces") == len(ids) > 1


FAMILIES = {
    "trine": lambda size: encoder_of(size),
    "bert": lambda size: BertModel(
        BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40)
    ),
    "decoder": lambda size: TrineForCausalLM(TrineConfig(**{**SIZES, "vocab_size": size, "export_code": False})),
    "translator": lambda size: TrineForConditionalGeneration(
        TrineSeq2SeqConfig(
            encoder={**SIZES, "vocab_size": size},
            decoder={**SIZES, "vocab_size": size},
            decoder_start_token_id=0,
            export_code=False,
        )
    ),
}


def encoder_of(size):
    return TrineModel(TrineConfig(**{**SIZES, "vocab_size": size, "is_causal": False, "export_code": False}))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_states_of_a_layer(tokenizers, family):
    """Words of several lengths are padded together; each equals the model's state of it alone."""
    tokenizer = tokenizers["wordpiece"]
    torch.manual_seed(0)
    model = FAMILIES[family](len(tokenizer)).eval()
    words = ["king", "kingbird", "苹果", "apple house", "banana"]
    found = [word_vectors(model, tokenizer, words, layer, batch_size=2) for layer in (1, 2, -1)]
    trunk = model.get_encoder() if family == "translator" else model
    for word in words:
        inputs = {name: tokenizer(word, return_tensors="pt")[name] for name in ("input_ids", "attention_mask")}
        hidden = trunk(**inputs, output_hidden_states=True).hidden_states
        for layer, vectors in zip((1, 2, 2), found, strict=True):
            expected = hidden[layer][0, 1:-1].mean(0).detach()  # without [CLS] and [SEP]
            np.testing.assert_allclose(vectors[word], expected.numpy(), atol=2e-6)


def test_sentence_vectors_are_those_of_sentence_transformers(english, tmp_path):
    model, tokenizer, _ = english
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = SentenceTransformer(str(tmp_path), device="cpu")
    found = word_vectors(encoder, tokenizer, ["king", "kingbird"], "sentence")
    np.testing.assert_allclose(found.vectors, encoder.encode(["king", "kingbird"]), atol=1e-6)
    assert np.array_equal(word_vectors(encoder, tokenizer, ["king"])["king"], word_vectors(model, tokenizer)["king"])
    with pytest.raises(ValueError, match="layer='sentence' needs a SentenceTransformer, not a TrineModel"):
        word_vectors(model, tokenizer, ["king"], "sentence")


def test_sums_are_gensims_and_numpys(english):
    """Item by item: what `most_similar` finds is the order of the cosines with the sum of words of length 1."""
    *_, vectors = english
    rows = vectors.vectors.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for text in ("king - man + woman", "apple + banana + fruit", "river", "house - bird + king - queen"):
        plus, minus = parse_expression(text)
        total = sum(rows[vectors.key_to_index[word]] for word in plus)
        total = total - sum((rows[vectors.key_to_index[word]] for word in minus), np.zeros(rows.shape[1]))
        cosines = rows @ total / np.linalg.norm(total)
        order = [vectors.index_to_key[n] for n in np.argsort(-cosines) if vectors.index_to_key[n] not in plus + minus]
        found = vectors.most_similar(plus, minus, topn=20)
        assert [word for word, _ in found] == order[:20]
        expected = [cosines[vectors.key_to_index[word]] for word in order[:20]]
        np.testing.assert_allclose([cosine for _, cosine in found], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "plus", "minus"),
    [
        ("king - man + woman", ["king", "woman"], ["man"]),
        ("  New  York - well-known ", ["New York"], ["well-known"]),
        ("- man + king", ["king"], ["man"]),
        ("+ king", ["king"], []),
        ("C++ + a-", ["C++", "a-"], []),
        ("苹果 - 水果", ["苹果"], ["水果"]),
    ],
)
def test_expressions(text, plus, minus):
    assert parse_expression(text) == (plus, minus)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ", "expression is empty"),
        ("king - ", r"expression='king - ' has no word after a '-'"),
        ("king - + man", r"has no word after a '-'"),
        ("- man - king", "expression='- man - king' only subtracts: name a word to add"),
    ],
)
def test_expressions_that_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_expression(text)


def test_equations():
    assert parse_equation("table - chair = mouse - keyboard") == ((["table"], ["chair"]), (["mouse"], ["keyboard"]))
    assert parse_equation("a=b") is None
    for text, side in {"king = ": "after", "= king": "before", " = ": "before"}.items():
        with pytest.raises(ValueError, match=f"expression='{text}' has nothing {side} its '='"):
            parse_equation(text)
    with pytest.raises(ValueError, match="expression='a = b = c' has 2 signs of equality, and may have one"):
        parse_equation("a = b = c")


def test_looking_up(english):
    model, tokenizer, vectors = english
    keys, notes = look_up(vectors, ["king", "King", "kingbird", "kingbird"], model, tokenizer, 0)
    assert keys == ["king", "king", "kingbird", "kingbird"]
    assert notes[0] == "'King' is 'king' to this tokenizer."
    assert re.match(r"'kingbird' is \d pieces \(king .*\), whose mean it has\.", notes[1])
    expected = word_vectors(model, tokenizer, ["kingbird"])["kingbird"]
    assert len(notes) == 2 and np.array_equal(vectors["kingbird"], expected)
    assert len(vectors.most_similar("kingbird", topn=3)) == 3, "gensim's norms are renewed"
    with pytest.raises(ValueError, match=r"The word 'kin☃g' is unknown\. Near words that are known: king"):
        look_up(vectors, ["kin☃g"], model, tokenizer, 0)


def test_looking_up_in_a_file(tmp_path):
    (tmp_path / "v.txt").write_text("berlin 1 0\nParis 0 1\n", encoding="utf-8")
    vectors = read_vectors(tmp_path / "v.txt")
    keys, notes = look_up(vectors, ["Berlin", "Paris"], None, None, 0)
    assert keys == ["berlin", "Paris"] and notes == ["'Berlin' is not among the vectors; 'berlin' takes its place."]
    with pytest.raises(ValueError, match="word=' ' is no word"):
        look_up(vectors, [" "], None, None, 0)
    with pytest.raises(ValueError, match="The word 'pariss' is unknown. Near words that are known: Paris."):
        look_up(vectors, ["pariss"], None, None, 0)


def test_vectors_of_files_and_folders(tmp_path):
    words, numbers = ["a", "b"], np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    expected = KeyedVectors(3)
    expected.add_vectors(words, numbers)
    expected.save_word2vec_format(str(tmp_path / "v.vec"))
    expected.save_word2vec_format(str(tmp_path / "v.bin"), binary=True)
    glove = "a 1 2 3\nb 4 5 6\n"
    (tmp_path / "glove.txt").write_text(glove)
    (tmp_path / "glove.txt.gz").write_bytes(gzip.compress(glove.encode()))
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "v.npy", numbers)
    pyarrow.parquet.write_table(pyarrow.table({"index": words}), tmp_path / "folder" / "v.parquet")
    for name in ("v.vec", "v.bin", "glove.txt", "glove.txt.gz", "folder"):
        found = read_vectors(tmp_path / name)
        assert found.index_to_key == words and np.array_equal(found.vectors, numbers), name


def test_files_without_vectors(tmp_path):
    (tmp_path / "folder").mkdir()
    files = {"empty.txt": "", "words.txt": "a\nb\n", "text.txt": "a b c\n", "cut.vec": "3 2\na 1 2\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    for name in (*files, "folder"):
        with pytest.raises(ValueError, match=f"vectors='.*{name}' holds no vectors"):
            read_vectors(tmp_path / name)
    np.save(tmp_path / "folder" / "v.npy", np.zeros((3, 2)))
    pyarrow.parquet.write_table(pyarrow.table({"index": ["a"]}), tmp_path / "folder" / "v.parquet")
    with pytest.raises(ValueError, match=r"1 words do not fit an array of shape \(3, 2\)"):
        read_vectors(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match="vectors='.*none.txt' is neither a file nor a folder"):
        read_vectors(tmp_path / "none.txt")
    for value in ("nan", "inf"):
        (tmp_path / "v.vec").write_text(f"2 2\nking 1 2\nqueen {value} 2\n")
        with pytest.raises(ValueError, match="vectors='.*v.vec' are not finite, such as that of 'queen'"):
            read_vectors(tmp_path / "v.vec")


@pytest.mark.parametrize(
    ("words", "layer", "message"),
    [
        (["king", " "], 0, "words holds ' ', which is no word"),
        ([3], 0, "words holds 3, which is no word"),
        (["king"], 3, r"layer=3 must be 0 for the input embeddings, 1 to 2 for a layer \(-1 is the last\)"),
        (["king"], True, "layer=True must be"),
        (["☃"], 0, "The word '☃' is unknown."),
    ],
)
def test_what_word_vectors_refuse(english, words, layer, message):
    with pytest.raises(ValueError, match=message):
        word_vectors(*english[:2], words, layer)


def test_models_that_are_refused(english, tokenizers):
    _, tokenizer, _ = english
    with pytest.raises(ValueError, match="a token of id .* and the model 61 input embeddings: it is another model's"):
        word_vectors(encoder(tokenizer, vocab_size=61), tokenizer)
    broken = encoder(tokenizer)
    broken.get_input_embeddings().weight.data[:] = float("nan")
    with pytest.raises(ValueError, match="The model's vectors are not finite, such as that of"):
        word_vectors(broken, tokenizer)
    short = encoder(tokenizer, max_position_embeddings=4, position_type="learned")
    with pytest.raises(ValueError, match=r"A text of \d+ tokens is longer than the model reads: 4"):
        word_vectors(short, tokenizer, ["kingbird apple house"], 1)
    silent = encoder(tokenizer)
    silent.forward = lambda **inputs: {}
    with pytest.raises(ValueError, match="TrineModel tells no states of its layers; take layer=0"):
        word_vectors(silent, tokenizer, ["king"], 1)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_uses_of_a_word(tokenizers, name):
    tokenizer = tokenizers[name]
    model = encoder(tokenizer)
    sentences = ["我吃了一个苹果和香蕉", "苹果公司卖手机", "the apple, a fruit"]
    uses = [*word_uses(model, tokenizer, "苹果", sentences[:2]), *word_uses(model, tokenizer, "Apple", sentences[2:])]
    assert [use.sentence[use.start : use.stop] for use in uses] == ["苹果", "苹果", "apple"]
    for use in uses:
        inputs = tokenizer(use.sentence, return_tensors="pt", return_offsets_mapping=True)
        spans = inputs["offset_mapping"][0].tolist()
        tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
        held = [n for n, (a, b) in enumerate(spans) if a < use.stop and b > use.start and tokens[n] not in ("▁", "Ġ")]
        assert use.pieces == [tokens[n] for n in held]
        hidden = model(inputs["input_ids"], output_hidden_states=True).hidden_states
        for layer in (1, 2):
            torch.testing.assert_close(use.states[layer], hidden[layer][0, held].mean(0), atol=2e-6, rtol=0)
        table = model.get_input_embeddings().weight
        torch.testing.assert_close(use.states[0], table[inputs["input_ids"][0, held]].mean(0), atol=1e-6, rtol=0)
    mutual, near = cosines_between(uses), cosines_to_words(uses, model, tokenizer, ["fruit", "公司"])
    for layer in range(3):
        cosine = torch.cosine_similarity(uses[0].states[layer], uses[1].states[layer], dim=0)
        torch.testing.assert_close(mutual[layer, 0, 1], cosine, atol=1e-6, rtol=0)
        word = torch.tensor(word_vectors(model, tokenizer, ["fruit"], layer)["fruit"])
        cosine = torch.cosine_similarity(uses[2].states[layer], word, dim=0)
        torch.testing.assert_close(near[layer, 2, 0], cosine, atol=2e-6, rtol=0)


def test_where_a_sentence_holds_a_word():
    assert find_word("art", "Smart Art, art") == (11, 14) and find_word("ART", "smart art") == (6, 9)
    assert find_word("art", "smart") is None and find_word("苹果", "吃苹果吧") == (1, 3)


def test_uses_that_are_refused(english):
    model, tokenizer, _ = english
    for word, sentence, message in (
        ("apple", "no fruit", "context='no fruit' does not hold the word 'apple'"),
        (" ", "no fruit", "word=' ' is no word"),
        ("☃", "a ☃", "The word '☃' is unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            word_uses(model, tokenizer, word, [sentence])
    uses = word_uses(model, tokenizer, "apple", ["an apple"])
    with pytest.raises(ValueError, match="The word '☃' is unknown"):
        cosines_to_words(uses, model, tokenizer, ["☃"])
    with pytest.raises(ValueError, match="A object tells no places in a text"):
        word_uses(model, object(), "apple", ["an apple"])


def test_the_plane_is_that_of_numpy():
    vectors = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    rows = (vectors / vectors.norm(dim=1, keepdim=True)).double().numpy()
    variance, axes = np.linalg.eigh(np.cov(rows.T))
    expected = (rows - rows.mean(0)) @ axes[:, np.argsort(-variance)[:2]]
    np.testing.assert_allclose(np.abs(plane(vectors).numpy()), np.abs(expected), atol=1e-6)
    assert plane(vectors[:1]).tolist() == [[0, 0]] and plane(torch.ones(3, 4)).abs().max() < 1e-12
