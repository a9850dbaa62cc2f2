"""Hybrid search beside bm25s, numpy and sentence-transformers by hand; changes of an index; and what is refused."""

import sys

import numpy as np
import pytest
import torch
from support.searches import DOCUMENTS, QUERIES, both_scores, tiny_encoder

from trine.retrieval import EmbeddedStore, HybridSearch
from trine.retrieval.stores import embedded


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def search(model):
    return HybridSearch(model, DOCUMENTS)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("depth", [None, 7])
@pytest.mark.parametrize("exact", [True, False])
def test_the_list_is_that_by_hand(model, query, depth, exact):
    """With the graph of so few documents, all of the nearest are found."""
    dense, lexical = both_scores(model, DOCUMENTS, query)
    chosen = np.ones(len(dense), bool)
    if depth is not None:  # the best of each kind; of equal ones those that were added first
        best_dense, best_lexical = (np.argsort(-scores, kind="stable")[:depth] for scores in (dense, lexical))
        chosen[:] = False
        chosen[best_dense] = chosen[best_lexical[lexical[best_lexical] > 0]] = True
    low, high, words = dense[chosen].min(), dense.max(), max(lexical.max(), 1e-9)
    expected = np.where(chosen, 0.7 * (dense - low) / (high - low) + 0.3 * lexical / words, -1)
    search = HybridSearch(model, DOCUMENTS, candidates=depth, store=EmbeddedStore(exact=exact))
    hits = search.search(query, 5)
    scores = dict(zip(DOCUMENTS, expected.tolist(), strict=True))
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores.values())[::-1][:5], abs=1e-4)
    assert [scores[hit.id] for hit in hits] == pytest.approx([hit.score for hit in hits], abs=1e-4)
    assert all(hit.text == DOCUMENTS[hit.id] for hit in hits)


def test_part_scores(model, search):
    dense, lexical = both_scores(model, DOCUMENTS, "a red house")
    for hit in search.search("a red house", 5):
        place = [*DOCUMENTS].index(hit.id)
        assert hit.dense == pytest.approx(dense[place], abs=1e-5)
        assert hit.lexical == pytest.approx(lexical[place], abs=1e-5)


@pytest.mark.parametrize("query", ["the of and", "zebra", "的"])
@pytest.mark.parametrize("fusion", ["min-max", "z-score", "rrf"])
def test_without_known_words_vectors_alone_decide(model, fusion, query):
    both = HybridSearch(model, DOCUMENTS, fusion=fusion).search(query, 50)
    alone = HybridSearch(model, DOCUMENTS, lexical_weight=0, fusion=fusion).search(query, 50)
    assert [hit.id for hit in both] == [hit.id for hit in alone] and len(both) == len(DOCUMENTS)
    assert np.isfinite([hit.score for hit in both]).all()


def test_one_kind_of_score_alone(model):
    found = HybridSearch(model, DOCUMENTS, dense_weight=0).search("red zebra", 50)
    assert {hit.id for hit in found} == {id_ for id_, text in DOCUMENTS.items() if "red" in text}
    assert all(hit.dense is None and hit.lexical for hit in found)
    assert HybridSearch(model, DOCUMENTS, lexical_weight=0).search("red")[0].lexical is None
    assert HybridSearch(model, DOCUMENTS, dense_weight=0).search("zebra") == []


def test_few_documents(model):
    empty = HybridSearch(model)
    assert empty.search("red") == [] and empty.search_all([]) == []
    empty.add({"one": "a red house"})
    (hit,) = empty.search("red house", 10)
    assert hit.id == "one" and np.isfinite(hit.score)
    empty.remove(["one"])
    assert empty.search("red") == [] and len(empty) == 0


def test_several_queries_are_as_one_by_one(search):
    for hits, query in zip(search.search_all(QUERIES, 4), QUERIES, strict=True):
        alone = search.search(query, 4)
        assert [hit.id for hit in hits] == [hit.id for hit in alone]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone], abs=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_changes_equal_an_index_made_anew(model, exact):
    items = [*DOCUMENTS.items()]
    changed = HybridSearch(model, dict(items[:20]), store=EmbeddedStore(exact=exact))
    changed.search("red")  # makes what changes must make anew
    changed.add(dict(items[20:]))
    changed.search("red")
    changed.remove(list(DOCUMENTS)[3:9])
    last = items[0][0]
    assert changed.update({last: "a zebra", **dict(items[1:3])}) == (0, 1, 2)
    anew = HybridSearch(model, {**dict(items[1:3] + items[9:]), last: "a zebra"})
    for query in [*QUERIES, "zebra"]:
        expected = anew.search(query, 100)
        found = changed.search(query, 100)
        assert [hit.id for hit in found] == [hit.id for hit in expected]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_only_changed_documents_are_encoded(model, monkeypatch):
    search = HybridSearch(model, DOCUMENTS)
    encoded = []
    encode = model.encode_document
    monkeypatch.setattr(model, "encode_document", lambda texts, **o: encoded.extend(texts) or encode(texts, **o))
    assert search.update(DOCUMENTS) == (0, 0, len(DOCUMENTS)) and not encoded
    assert search.update({**DOCUMENTS, "red-house": "a tent", "new": "a tree"}) == (1, 1, len(DOCUMENTS) - 1)
    assert encoded == ["a tent", "a tree"]


def test_a_graph_takes_the_place_of_comparing_above_a_size(model, search, monkeypatch):
    monkeypatch.setattr(embedded, "EXACT_BELOW", 30)
    large, small = HybridSearch(model, DOCUMENTS), HybridSearch(model, {"a": "red"})
    assert not large.store.exact and small.store.exact
    assert [hit.id for hit in large.search("red", 9)] == [hit.id for hit in search.search("red", 9)]
    assert (large.store.usual_depth, small.store.usual_depth) == (300, None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"needs faiss: pip install 'trine\[retrieval\]'"):
        HybridSearch(model, DOCUMENTS).search("red")


def test_dot_products(tmp_path):
    model = tiny_encoder(tmp_path)
    model.similarity_fn_name = "dot"
    hits = HybridSearch(model, DOCUMENTS, lexical_weight=0).search("red", 3)
    expected = torch.topk(model.similarity(model.encode(["red"]), model.encode([*DOCUMENTS.values()]))[0], 3)
    assert [hit.dense for hit in hits] == pytest.approx(expected.values.tolist(), rel=1e-5)
    model.similarity_fn_name = "euclidean"
    with pytest.raises(ValueError, match=r"similarity_fn_name='euclidean' is not one of \['cosine', 'dot'\]"):
        HybridSearch(model, DOCUMENTS)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.search("  "), ValueError, "query='  ' is an empty text"),
        (lambda s: s.search(7), TypeError, "query=7 is an int, not a text"),
        (lambda s: s.search("\ud800"), ValueError, "holds one half of a character"),
        (lambda s: s.search_all("red"), TypeError, "queries='red' is one text; pass a list"),
        (lambda s: s.search("red", 0), ValueError, "k=0 must be a whole number of at least 1"),
        (lambda s: s.search("red", 2.5), ValueError, "k=2.5 must be a whole number"),
        (lambda s: s.add({"red-house": "x"}), ValueError, r"ids that are there already: \['red-house'\]. `update`"),
        (lambda s: s.add({"a": "x", "b": " "}), ValueError, r"documents\['b'\]=' ' is an empty text"),
        (lambda s: s.add({3: "x"}), TypeError, "id=3 is an int, not a text"),
        (lambda s: s.add(["x"]), TypeError, "documents is a list; pass a mapping from ids to texts"),
        (lambda s: s.remove("red-house"), TypeError, "ids='red-house' is one text; pass a list"),
        (lambda s: s.remove(["red-house", "no"]), KeyError, r"ids=\['no'\] are not among the documents"),
    ],
)
def test_what_is_refused_changes_nothing(search, call, error, message):
    with pytest.raises(error, match=message):
        call(search)
    assert len(search) == len(DOCUMENTS)


def test_options_that_are_refused(model):
    for options, message in (
        ({"fusion": "raw"}, "fusion='raw' would add raw scores"),
        ({"dense_weight": float("nan")}, "dense_weight=nan must be a finite number"),
        ({"candidates": 0}, "candidates=0 must be a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            HybridSearch(model, **options)
    with pytest.raises(TypeError, match="model='name' is a str; pass a SentenceTransformer"):
        HybridSearch("name", DOCUMENTS)
    with pytest.raises(TypeError, match="store='x.db' is a str; pass a store, such as open_store makes"):
        HybridSearch(model, store="x.db")
    for size in (0, 1.5, "a"):
        with pytest.raises(ValueError, match=f"chunk_size={size!r} must be a whole number of at least 1"):
            HybridSearch(model, late_chunking=True, chunk_size=size)


def test_vectors_that_are_not_finite(tmp_path):
    model = tiny_encoder(tmp_path)
    search = HybridSearch(model)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match=r"not finite for 36 documents: \['red-house',"):
        search.add(DOCUMENTS)
