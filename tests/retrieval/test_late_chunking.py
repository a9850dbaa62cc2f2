"""Chunks of a document get the means of its hidden states, whatever the document, the cut, and the windows."""

from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from support.tiny import tiny_model

from trine import TrineModel, train_byte_level_bpe, train_wordpiece
from trine.retrieval import late_chunks, sentence_spans


ENGLISH = "Shows pictures. It is e.g. fast, and small!  Written in C.\nIt needs no \u201cserver.\u201d Ask us"
CHINESE = "苹果是水果。苹果也是公司！「它在美国。」 你喜欢吗？红的；绿的"
TEXTS = [ENGLISH, CHINESE, "One line only", "a b c d e f g h i j k l m n o p q r s t u v w x y z. " * 4]
GIVEN = [[(0, 15), (17, 31)], [(0, 6), (9, 13)], [(0, 3), (3, 13)], [(0, 4), (12, 40)]]  # with gaps between them
TRAINERS = {"wordpiece": train_wordpiece, "bpe": train_byte_level_bpe}


def make(folder, tokenizer="wordpiece", modules=(), include_prompt=True) -> SentenceTransformer:
    """A small encoder in float64."""
    trained = TRAINERS[tokenizer](TEXTS * 3, 400, show_progress=False)
    fields = {"is_causal": False, "vocab_size": len(trained), "pad_token_id": trained.pad_token_id}
    model = tiny_model(TrineModel, **fields, max_position_embeddings=256)
    model.save_pretrained(folder)
    trained.save_pretrained(folder)
    transformer = Transformer(str(folder), model_kwargs={"dtype": torch.float64})
    first = [transformer, Pooling(transformer.get_embedding_dimension(), include_prompt=include_prompt)]
    return SentenceTransformer(modules=[*first, *modules], device="cpu").double()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, SentenceTransformer]:
    return {name: make(tmp_path_factory.mktemp(name), name) for name in TRAINERS}


def test_sentences():
    parts = [ENGLISH[start:end] for start, end in sentence_spans(ENGLISH)]
    assert parts == [
        *("Shows pictures. ", "It is e.g. fast, and small!  ", "Written in C.\n"),
        *("It needs no \u201cserver.\u201d ", "Ask us"),
    ]
    parts = [CHINESE[start:end] for start, end in sentence_spans(CHINESE)]
    assert parts == ["苹果是水果。", "苹果也是公司！", "「它在美国。」 ", "你喜欢吗？", "红的；", "绿的"]
    assert sentence_spans("") == [(0, 0)]
    assert sentence_spans(" \n a. \n\nB...\n\n") == [(0, 8), (8, 14)]


@pytest.mark.parametrize("tokenizer", TRAINERS)
def test_a_single_chunk_is_an_ordinary_embedding(tokenizer, models):
    model = models[tokenizer]
    for text in TEXTS:
        chunk = late_chunks(model, text, chunks=[(0, len(text))])
        np.testing.assert_allclose(chunk.vectors[0], model.encode(text), rtol=1e-9, atol=1e-9)
        assert chunk.spans == [(0, len(text))]


@pytest.mark.parametrize("tokenizer", TRAINERS)
@pytest.mark.parametrize("options", [{}, {"chunk_size": 1}, {"chunk_size": 5}, {"chunks": GIVEN}])
def test_chunks_are_means_of_hidden_states(options, tokenizer, models):
    """As a loop over the characters of each token finds them, in the trunk's own states."""
    model = models[tokenizer]
    for number, (text, (vectors, spans)) in enumerate(zip(TEXTS, late_chunks(model, TEXTS, **options), strict=True)):
        if "chunks" in options:
            assert spans == GIVEN[number]
        else:
            assert "".join(text[start:end] for start, end in spans) == text and all(
                end > start for start, end in spans
            )
        read = model.tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
        with torch.no_grad():
            states = model[0].auto_model(torch.tensor([read["input_ids"]])).last_hidden_state[0].numpy()
        members: list[list[int]] = [[] for _ in spans]
        for place, (_, end) in enumerate(read["offset_mapping"]):
            if read["special_tokens_mask"][place]:
                members[0 if place == 0 else -1].append(place)
            else:
                for chunk, (start, stop) in enumerate(spans):
                    if start < end <= stop:
                        members[chunk].append(place)
        expected = np.stack([states[places].mean(0) for places in members])
        np.testing.assert_allclose(vectors, expected, rtol=1e-9, atol=1e-9)


def test_chunks_have_the_asked_number_of_tokens(models):
    model, text = models["wordpiece"], TEXTS[3]
    tokens = [len(model.tokenizer(text[s:e]).input_ids) - 2 for s, e in late_chunks(model, text, chunk_size=7).spans]
    assert tokens == [7] * 15 + [3]


def test_several_documents_equal_one_by_one(models):
    choices: list[Any] = [{}, {"chunk_size": 4, "batch_size": 2}]
    for options in choices:
        together = late_chunks(models["bpe"], TEXTS, **options)
        for text, (vectors, spans) in zip(TEXTS, together, strict=True):
            alone = late_chunks(models["bpe"], text, **options)
            np.testing.assert_allclose(vectors, alone.vectors, rtol=1e-9, atol=1e-9)
            assert spans == alone.spans
    given = [[(0, len(text) - 1)] for text in TEXTS]
    assert [found.spans for found in late_chunks(models["bpe"], TEXTS, chunks=given)] == given
    assert late_chunks(models["bpe"], []) == []


def test_prompts_and_further_modules(tmp_path):
    dense = Dense(32, 6)
    model = make(tmp_path, modules=[dense, Normalize()], include_prompt=False)
    model.prompts |= {"document": "written in c: ", "other": "ask us: "}
    choices: list[Any] = [{}, {"prompt_name": "other"}, {"prompt": "fast "}, {"prompt": ""}]
    for options in choices:
        expected = model.encode_document([ENGLISH], **options)[0]
        found = late_chunks(model, ENGLISH, chunks=[(0, len(ENGLISH))], **options).vectors[0]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    vars(model[1])["include_prompt"], model.truncate_dim = True, 4
    expected = model.encode_document([ENGLISH], normalize_embeddings=True)
    found = late_chunks(model, ENGLISH, chunks=[(0, len(ENGLISH))], normalize_embeddings=True)
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-9, atol=1e-9)
    assert found.vectors.shape == (1, 4)
    spans = late_chunks(model, ENGLISH).spans
    assert spans == late_chunks(model, ENGLISH, prompt="").spans == sentence_spans(ENGLISH), "the prompt has none"


@pytest.mark.parametrize(("overlap", "shared"), [(None, 4), (0, 0), (7, 7)])
def test_long_documents_are_read_in_windows(overlap, shared, models):
    """A token's state is that of the window in which it is farther from the edge."""
    model, text, limit = models["wordpiece"], TEXTS[3], 20
    read = model.tokenizer(text, return_offsets_mapping=True)
    ids, offsets = read["input_ids"][1:-1], read["offset_mapping"][1:-1]
    room = limit - 2
    starts = [*range(0, len(ids) - room, room - shared), len(ids) - room]
    states, distances, edges = np.zeros((len(ids), 32)), np.full(len(ids), -1), []
    for start in starts:
        row = torch.tensor([[read["input_ids"][0], *ids[start : start + room], read["input_ids"][-1]]])
        with torch.no_grad():
            window = model[0].auto_model(row).last_hidden_state[0].numpy()
        edges += [window[0], window[-1]]
        for place in range(start, start + room):
            left = np.inf if start == 0 else place - start
            right = np.inf if start == starts[-1] else start + room - 1 - place
            if min(left, right) >= distances[place]:  # the later one where they are equal
                states[place], distances[place] = window[1 + place - start], min(left, right, 1000)
    try:
        model.max_seq_length = limit
        vectors, spans = late_chunks(model, text, chunk_size=10, overlap=overlap)
        assert len(late_chunks(model, TEXTS[2]).spans) == 1, "a short one is not"
    finally:
        model.max_seq_length = 256
    expected = []
    for number, (start, stop) in enumerate(spans):
        members = [state for state, (_, end) in zip(states, offsets, strict=True) if start < end <= stop]
        members += edges[:1] * (number == 0) + edges[-1:] * (number == len(spans) - 1)
        expected.append(np.mean(members, axis=0))
    np.testing.assert_allclose(vectors, expected, rtol=1e-9, atol=1e-9)


def test_sentences_without_tokens_are_joined(models):
    text = "Red. \u200b\u200b\u200b\n\u200b\nBlue. \x07"
    assert [text[start:end] for start, end in late_chunks(models["wordpiece"], text).spans] == [
        "Red. \u200b\u200b\u200b\n\u200b\n",
        "Blue. \x07",
    ]


class Slow:
    """A tokenizer of Python code."""

    is_fast = False


REFUSED = [
    ({"chunks": [(0, 3)], "chunk_size": 3}, TypeError, r"chunks or chunk_size=3, not both"),
    ({"chunk_size": 0}, ValueError, r"chunk_size=0 must be a whole number of at least 1"),
    ({"chunk_size": 1.5}, ValueError, r"chunk_size=1.5 must be a whole number"),
    ({"chunk_size": "a"}, ValueError, r"chunk_size='a' must be a whole number"),
    ({"batch_size": -1}, ValueError, r"batch_size=-1 must be a whole number"),
    ({"prompt_name": "title"}, ValueError, r"prompt_name='title' is not one of \['query', 'document'\]"),
    ({"chunks": []}, ValueError, r"chunks=\[\] has no span"),
    ({"chunks": [3]}, ValueError, r"chunks\[0\]=3 is not a pair"),
    ({"chunks": [(0, 3), (5, 5)]}, ValueError, r"chunks\[1\]=\(5, 5\) is not within 0 <= start < end <= \d+"),
    ({"chunks": [(0, 3), (5, 5000)]}, ValueError, r"chunks\[1\]=\(5, 5000\) is not within"),
    ({"chunks": [(0, 3), (2, 5)]}, ValueError, r"chunks\[1\]=\(2, 5\) begins before chunks\[0\]=\(0, 3\) ends"),
    ({"chunks": [(0, 14), (15, 16)]}, ValueError, r"chunks\[1\]=\(15, 16\) of document\[0\], ' ', has no token"),
    ({"overlap": 254}, ValueError, r"overlap=254 is not within 0 <= overlap < 254"),
    ({"overlap": -1}, ValueError, r"overlap=-1 is not within"),
    ({"prompt": "a " * 300}, ValueError, r"max_seq_length=256 has no room beside 302 tokens"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
def test_refused_values(options, error, message, models):
    with pytest.raises(error, match=message):
        late_chunks(models["wordpiece"], ENGLISH, **options)


def test_refused_documents(models):
    with pytest.raises(ValueError, match=r"document\[1\]=' \\n' has no token"):
        late_chunks(models["wordpiece"], ["red", " \n"])
    with pytest.raises(ValueError, match="chunks has 1 lists of spans for 2 documents"):
        late_chunks(models["wordpiece"], ["red", "blue"], chunks=[[(0, 1)]])
    with pytest.raises(TypeError, match="document=None is a NoneType, neither a text nor a list of texts"):
        late_chunks(models["wordpiece"], None)
    with pytest.raises(TypeError, match=r"document\[1\]=3 is an int, not a text"):
        late_chunks(models["wordpiece"], ["red", 3])


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", "weightedmean", ("mean", "max")])
def test_poolings_without_a_mean_are_refused(pooling, models):
    model = SentenceTransformer(modules=[models["bpe"][0], Pooling(32, pooling)], device="cpu")
    with pytest.raises(ValueError, match=r"pooling_mode=.* is not one of \['mean'\]"):
        late_chunks(model, ENGLISH)


def test_other_models_are_refused(models, monkeypatch):
    model = SentenceTransformer(modules=[models["bpe"][0], Normalize(), models["bpe"][1]], device="cpu")
    with pytest.raises(ValueError, match=r"modules=\['Transformer', 'Normalize', 'Pooling'\] do not begin with"):
        late_chunks(model, ENGLISH)
    with monkeypatch.context() as patch:
        patch.setitem(models["bpe"][0].modality_config, "message", {})
        with pytest.raises(ValueError, match="modality_config has 'message'"):
            late_chunks(models["bpe"], ENGLISH)
    monkeypatch.setattr(models["bpe"][0], "processor", Slow())
    monkeypatch.setattr(Transformer, "tokenizer", property(lambda self: self.processor))
    with pytest.raises(ValueError, match="tokenizer=Slow does not say which characters"):
        late_chunks(models["bpe"], ENGLISH)
