"""A small embedding model, documents, and a ranking by bm25s, numpy and sentence-transformers alone."""

from pathlib import Path

import bm25s
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.tiny import SIZES

from trine import TrineConfig, TrineForSequenceClassification, TrineModel, train_wordpiece
from trine.retrieval import HybridSearch, Store


NAMES = ["red", "green", "blue", "white", "black", "brown"]
THINGS = ["house", "horse", "river", "stone", "bird", "lamp"]
DOCUMENTS = {f"{a}-{b}": f"a {b} that is {a} by the {THINGS[n]}" for n, a in enumerate(NAMES) for b in THINGS}
LONG = {
    "first": ". ".join([*DOCUMENTS.values()][:6]).title(),
    "a#1-2": "\n".join([*DOCUMENTS.values()][6:10]),
    "黑鸟": "树上有两只鸟。一只是黑鸟！它在河边。",
    "one": [*DOCUMENTS.values()][11],
}
QUERIES = ["a red house", "the black bird", "river", "stone stone lamp", "the of and", "zebra"]


def save_encoder(folder: Path, seed: int = 0) -> str:
    """Saves a Trine encoder with random weights and its tokenizer."""
    tokenizer = train_wordpiece([*DOCUMENTS.values()], 300, show_progress=False)
    torch.manual_seed(seed)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    TrineModel(TrineConfig(**sizes, is_causal=False)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_classifier(folder: Path, labels: int = 1) -> str:
    """Saves a Trine classifier of pairs with random weights, whose scores differ, and its tokenizer."""
    tokenizer = train_wordpiece([*DOCUMENTS.values()], 300, show_progress=False)
    torch.manual_seed(3)
    config = TrineConfig(**SIZES | {"vocab_size": len(tokenizer)}, is_causal=False, num_labels=labels)
    classifier = TrineForSequenceClassification(config)
    classifier.classifier.weight.data *= 40
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def tiny_encoder(folder: Path, seed: int = 0) -> SentenceTransformer:
    return SentenceTransformer(save_encoder(folder, seed), device="cpu")


def both_scores(model: SentenceTransformer, documents: dict[str, str], query: str) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and BM25 scores of all documents for a query."""
    texts = [*documents.values()]
    cosines = model.similarity(model.encode([query]), model.encode(texts))[0].numpy()
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    words = bm25s.tokenize([query], stopwords="en", return_ids=False, show_progress=False)[0]
    return cosines, index.get_scores(words) if words else np.zeros(len(texts))


def assert_same_hits(ours, theirs, k=9):
    """Two stores give the same scores, and the same order where no two are equal."""
    for query in [*QUERIES, "黑鸟"]:
        for fields in ({}, {"dense_weight": 0}, {"lexical_weight": 0}, {"fusion": "rrf"}):
            for each in (ours, theirs):
                vars(each).update({"dense_weight": 0.7, "lexical_weight": 0.3, "fusion": "min-max", **fields})
            found, expected = ours.search(query, k), theirs.search(query, k)
            assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)
            for name in ("dense", "lexical"):
                scores = [{hit.id: getattr(hit, name) for hit in hits} for hits in (found, expected)]
                both = scores[0].keys() & scores[1].keys()
                assert [scores[0][id_] for id_ in both] == pytest.approx([scores[1][id_] for id_ in both], abs=1e-5)
            distinct = np.unique(np.round([hit.score for hit in expected], 5)).size == len(expected)
            assert not distinct or [hit.id for hit in found] == [hit.id for hit in expected]


def chunk_scores(search: HybridSearch) -> dict[str, float]:
    """The score of each chunk for one query."""
    return {hit.id: hit.score for hit in search.search("the black bird", 50)}


def assert_holds_chunks(model: SentenceTransformer, store: Store) -> None:
    """A store that is a database holds what the embedded one holds, after a document has become shorter."""
    changed = {**LONG, "first": "A lamp. A red house."}
    search = HybridSearch(model, LONG, store=store, late_chunking=True)
    search.update(changed)
    expected = HybridSearch(model, changed, late_chunking=True)
    assert chunk_scores(search) == pytest.approx(chunk_scores(expected), abs=1e-5)
    assert search.texts(search.ids) == expected.texts(expected.ids) == changed
    search.remove(["first", "one"])
    again = HybridSearch.load(store, model)
    assert sorted(again.ids) == sorted(["a#1-2", "黑鸟"]) and again.chunking is not None
