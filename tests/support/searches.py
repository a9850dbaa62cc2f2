"""A small embedding model, documents, and a ranking by bm25s, numpy and sentence-transformers alone."""

from pathlib import Path

import bm25s
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from support.tiny import SIZES

from trine import TrineConfig, TrineModel, train_wordpiece


NAMES = ["red", "green", "blue", "white", "black", "brown"]
THINGS = ["house", "horse", "river", "stone", "bird", "lamp"]
DOCUMENTS = {f"{a}-{b}": f"a {b} that is {a} by the {THINGS[n]}" for n, a in enumerate(NAMES) for b in THINGS}
QUERIES = ["a red house", "the black bird", "river", "stone stone lamp", "the of and", "zebra"]


def save_encoder(folder: Path, seed: int = 0) -> str:
    """Saves a Trine encoder with random weights and its tokenizer."""
    tokenizer = train_wordpiece([*DOCUMENTS.values()], 300, show_progress=False)
    torch.manual_seed(seed)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    TrineModel(TrineConfig(**sizes, is_causal=False)).save_pretrained(folder)
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
