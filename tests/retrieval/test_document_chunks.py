"""An index of chunks: their vectors know the rest of the document, and documents come and go whole."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from support.searches import DOCUMENTS, LONG, chunk_scores, tiny_encoder

from trine.retrieval import EmbeddedStore, HybridSearch, late_chunks
from trine.retrieval.document_chunks import Chunk, read_chunk
from trine.retrieval.found_documents import find


LINES = [*DOCUMENTS.values()]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


def means(model, text, start, end):
    """The mean over the states of the tokens of a part of a text, at its ends with [CLS] and [SEP]."""
    read = model.tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
    states = model[0].model(input_ids=read["input_ids"]).last_hidden_state[0].double()
    last = len(states) - 1
    inside = [
        start == 0 if place == 0 else end == len(text) if place == last else start < stop <= end
        for place, (_, stop) in enumerate(read["offset_mapping"][0].tolist())
    ]
    return states[torch.tensor(inside)].mean(0)


@torch.no_grad()
def test_hits_are_chunks_with_the_vectors_of_their_context(model):
    search = HybridSearch(model, LONG, late_chunking=True)
    assert sorted(search.ids) == sorted(LONG) and len(search) == 6 + 4 + 3 + 1
    assert search.texts([*LONG, "none"]) == LONG
    query = "a red house"
    asked = torch.from_numpy(model.encode([query])[0]).double()
    hits = search.search(query, 20)
    assert len(hits) == 14
    for hit in hits:
        start, end = hit.span
        assert hit.text == LONG[hit.document][start:end] and hit.id == f"{hit.document}#{start}-{end}"
        cosine = torch.cosine_similarity(asked, means(model, LONG[hit.document], start, end), dim=0)
        assert hit.dense == pytest.approx(cosine.item(), abs=1e-5)
    whole = HybridSearch(model, LONG).search(query, 20)
    assert {hit.document for hit in whole} == {None} and whole[0].span is None
    alone = {hit.id: hit.dense for hit in whole}
    (single,) = [hit for hit in hits if hit.document == "one"]
    assert single.dense == pytest.approx(alone["one"], abs=1e-5)  # one chunk is its document


def test_documents_come_and_go_whole(model, monkeypatch):
    search = HybridSearch(model, LONG, late_chunking=True, chunk_size=5)
    read = []
    cut = search.chunking.cut
    monkeypatch.setattr(search.chunking, "cut", lambda documents: read.append([*documents]) or cut(documents))
    shorter = LONG["first"][:60]
    assert search.update({**LONG, "first": shorter, "new": "a zebra by the river"}) == (1, 1, len(LONG) - 1)
    assert read == [["first", "new"]]
    expected = HybridSearch(model, {**LONG, "first": shorter, "new": "a zebra by the river"}, **same(search))
    assert sorted(search.store.ids) == sorted(expected.store.ids)
    assert chunk_scores(search) == pytest.approx(chunk_scores(expected), abs=1e-6)
    search.remove(["first", "黑鸟"])
    assert sorted(search.ids) == ["a#1-2", "new", "one"] and {*search.store.ids} < {*expected.store.ids}
    with pytest.raises(KeyError, match="are not among the documents"):
        search.remove(["first"])
    with pytest.raises(ValueError, match=r"documents has ids that are there already: \['new'\]"):
        search.add({"new": "a lamp"})


def same(search):
    return {"late_chunking": True, "chunk_size": search.chunking.chunk_size}


def test_an_index_goes_on_as_it_was_made(model, tmp_path):
    HybridSearch(model, LONG, late_chunking=True, chunk_size=4).save(tmp_path)
    search = HybridSearch.load(tmp_path, model)
    assert search.chunking.chunk_size == 4 and search.texts(LONG) == LONG
    assert chunk_scores(search) == chunk_scores(HybridSearch(model, LONG, late_chunking=True, chunk_size=4))
    for options in ({"late_chunking": False}, {"late_chunking": True}, {"late_chunking": True, "chunk_size": 5}):
        with pytest.raises(ValueError, match="the index has chunks with chunk_size=4. Leave them out, or make a new"):
            HybridSearch.load(tmp_path, model, **options)
    with pytest.raises(ValueError, match="chunk_size=None: the index has whole documents"):
        HybridSearch(model, store=HybridSearch(model, LONG).store, late_chunking=True)


def test_a_reranker_and_other_libraries_get_chunks(model):
    class Backwards:
        def rank(self, query, documents):
            return [{"corpus_id": place, "score": place} for place in range(len(documents) - 1, -1, -1)]

    search = HybridSearch(model, LONG, late_chunking=True)
    before = search.search("red", 5)
    found = search.search("red", 5, rerank=Backwards(), rerank_candidates=5, rerank_weight=1)
    assert [(hit.id, hit.document, hit.span) for hit in found] == [
        (hit.id, hit.document, hit.span) for hit in before[::-1]
    ]
    known = find(search, "red", 3, {id_: {"name": id_} for id_ in LONG})
    assert [each.metadata["name"] for each in known] == [hit.document for hit in before[:3]]


def test_what_is_refused(model):
    transformer = model[0]
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="cls")
    first_token = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    with pytest.raises(ValueError, match=r"pooling_mode='cls' is not one of \['mean'\]"):
        HybridSearch(first_token, late_chunking=True)
    with pytest.raises(ValueError, match="chunk_size=3 is for late_chunking=True"):
        HybridSearch(model, chunk_size=3)
    with pytest.raises(ValueError, match="chunk_size=0 must be a whole number of at least 1"):
        HybridSearch(model, late_chunking=True, chunk_size=0)
    with pytest.raises(ValueError, match="documents.'a'.=' ' is an empty text"):
        HybridSearch(model, {"a": " "}, late_chunking=True)
    with pytest.raises(ValueError, match="id='a' is not that of a chunk, DOCUMENT#FIRST-LAST"):
        read_chunk("a")
    assert read_chunk("a#1-2#3-4") == Chunk("a#1-2", (3, 4)) and read_chunk(Chunk("x\n", (0, 2)).id).document == "x\n"


def test_a_document_longer_than_the_model_reads(model):
    text = "\n".join(LINES)
    search = HybridSearch(model, {"long": text}, late_chunking=True, store=EmbeddedStore(exact=True))
    chunks = late_chunks(model, text, normalize_embeddings=True)
    asked = model.encode(["a red house"], normalize_embeddings=True)[0]
    expected = {Chunk("long", span).id: float(row @ asked) for row, span in zip(*chunks, strict=True)}
    hits = search.search("a red house", 100)
    assert {hit.id: hit.dense for hit in hits} == pytest.approx(expected, abs=1e-5)
    assert np.isfinite(chunks.vectors).all() and len(hits) == len(chunks.spans) > 1
