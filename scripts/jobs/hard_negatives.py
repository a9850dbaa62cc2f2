"""Mines hard negatives: texts that a search finds for an anchor and that are not its positives."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives
from tqdm.auto import tqdm

from trine.retrieval.bm25 import BM25
from trine.retrieval.encoder_identity import hash_weights
from trine.retrieval.encoding import batch_of
from trine.retrieval.words import Words
from trine.scripts.arguments.hard_negatives import HardNegativeArguments
from trine.scripts.jobs.encoders import load_encoder
from trine.training.data.cache_folders import DEFAULT_CACHE, find_or_make


FILE = "negatives.json"
USUAL_BATCH = 64
LARGEST = 2**26  # numbers in a matrix of similarities


class Rules(NamedTuple):
    """How many negatives an anchor gets, and which: see `HardNegativeArguments`."""

    number: int
    skip: int
    depth: int | None
    margin: float
    seed: int


class Mined(NamedTuple):
    """Pairs with their negatives.

    Args:
        rows: (anchor, positive, negative, ...) of each pair, in the order of the pairs, all of equal length.
        drawn: How many negatives of all anchors were drawn at random, because the search found too few.
        miner: What searched: "BM25", or the name of a model.
    """

    rows: list[tuple[str, ...]]
    drawn: int
    miner: str


def mine_rows(
    pairs: Sequence[tuple[str, ...]],
    arguments: HardNegativeArguments,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    corpus: Sequence[str] = (),
) -> Mined:
    """Adds `arguments.hard_negatives` negatives to each pair, and prints what was done; a second time from the cache.

    No negative is a positive of its anchor, nor the anchor itself. Where the search finds too few, others of the
    collection are drawn at random.

    Args:
        pairs: Anchors and positives; what comes after them in a row is left out.
        arguments: How many, by what, and what to leave out.
        seed: Of all that is drawn.
        batch_size: Texts that the model reads at a time. By default 64, and on a CPU fewer of long ones.
        device: Where the model computes.
        trust_remote_code: Whether code that comes with the model may run.
        corpus: Further texts that may be negatives, beside all positives.

    Raises:
        ImportError: BM25 searches, and bm25s is not installed.
        OSError: The model cannot be read, or the cache cannot be written.
        ValueError: There are too few texts, or the model lacks weights.
    """
    pairs = [(pair[0], pair[1]) for pair in pairs]
    texts = [*dict.fromkeys([*(positive for _, positive in pairs), *corpus])]
    number, all_texts = arguments.hard_negatives, {*texts}
    least = len(texts) - max(len(own & all_texts) for own in taken_texts(pairs).values())
    if number > least:
        raise ValueError(f"hard_negatives={number} are more than the {least} texts that are not right for an anchor.")
    model = load_encoder(arguments.miner, device, trust_remote_code) if arguments.miner else None
    rules = Rules(number, arguments.negatives_skip, arguments.negatives_depth, arguments.negatives_margin, seed)
    key = {"kind": "hard negatives", **rules._asdict(), "pairs": pairs, "texts": texts, "miner": identity(model)}

    def make(folder: Path) -> None:
        found = (
            search_words(pairs, texts, rules)
            if model is None
            else search_vectors(pairs, texts, rules, model, batch_size)
        )
        (folder / FILE).write_text(json.dumps(found), encoding="utf-8")

    cache = Path(arguments.cache_dir) if arguments.cache_dir else DEFAULT_CACHE / "negatives"
    found = json.loads((find_or_make(cache, key, make) / FILE).read_text(encoding="utf-8"))
    rows, drawn = fill(pairs, texts, found, number, seed)
    name = arguments.miner or "BM25"
    rest = f", {drawn:,} of them drawn at random where it finds too few" if drawn else ""
    print(f"{number * len(rows):,} hard negatives for {len(rows):,} pairs by {name}{rest}.")
    return Mined(rows, drawn, name)


def identity(model: SentenceTransformer | None) -> Any:
    """Tells one miner from another: weights, pooling, lengths and prompts of a model, or "BM25"."""
    return "BM25" if model is None else [hash_weights(model), str(model), model.prompts]


def taken_texts(pairs: Sequence[tuple[str, str]]) -> dict[str, set[str]]:
    """For each anchor its positives and itself, none of which can be its negative."""
    taken: dict[str, set[str]] = {}
    for anchor, positive in pairs:
        taken.setdefault(anchor, {anchor}).add(positive)
    return taken


def search_words(pairs: Sequence[tuple[str, str]], texts: Sequence[str], rules: Rules) -> list[list[int]]:
    """For each anchor, in the order of their first pairs, the places of its negatives by BM25, the best first."""
    words, places = Words(), {text: place for place, text in enumerate(texts)}
    bm25, generator, found = BM25.of(texts, words), random.Random(rules.seed), []
    for anchor, own in tqdm(taken_texts(pairs).items(), desc="Negatives by BM25", disable=None):
        scores = bm25.scores(words(anchor))
        right = [places[text] for text in own if text in places]
        limit = scores[[places[text] for text in own - {anchor}] or right].min() * (1 - rules.margin)
        scores[right] = 0
        if rules.margin:
            scores[scores > limit] = 0
        there = np.flatnonzero(scores > 0)
        best = there[np.argsort(-scores[there], kind="stable")].tolist()
        best = best[rules.skip : rules.depth or rules.skip + rules.number]
        if rules.depth is not None and len(best) > rules.number:
            best = [best[place] for place in sorted(generator.sample(range(len(best)), rules.number))]
        found.append(best)
    return found


def search_vectors(
    pairs: Sequence[tuple[str, str]],
    texts: Sequence[str],
    rules: Rules,
    model: SentenceTransformer,
    batch_size: int | None,
) -> list[list[int]]:
    """As `search_words`, but by a model's vectors, with `mine_hard_negatives` of sentence-transformers."""
    from datasets import Dataset

    if batch_size is None:
        usual = sorted(texts, key=len)[len(texts) // 2]
        batch_size = batch_of(usual, model.max_seq_length) if model.device.type == "cpu" else USUAL_BATCH
    anchors, positives = map(list, zip(*pairs, strict=True))
    state = random.getstate()
    random.seed(rules.seed)
    try:
        triplets = mine_hard_negatives(
            Dataset.from_dict({"anchor": anchors, "positive": positives}),
            model,
            corpus=[*texts],
            range_min=rules.skip,
            range_max=rules.depth,
            relative_margin=rules.margin or None,
            num_negatives=rules.number,
            sampling_strategy="top" if rules.depth is None else "random",
            output_format="triplet",
            batch_size=batch_size,
            faiss_batch_size=max(1, LARGEST // len(texts)),
            verbose=False,
        )
    finally:
        random.setstate(state)
    places = {text: place for place, text in enumerate(texts)}
    found: dict[str, dict[int, None]] = {anchor: {} for anchor in anchors}
    for anchor, negative in zip(triplets["anchor"], triplets["negative"], strict=True):
        found[anchor][places[negative]] = None
    return [[*negatives] for negatives in found.values()]


def fill(
    pairs: Sequence[tuple[str, str]], texts: Sequence[str], found: Sequence[Sequence[int]], number: int, seed: int
) -> tuple[list[tuple[str, ...]], int]:
    """Rows of equal length, and how many negatives had to be drawn at random among all texts."""
    taken, generator, drawn = taken_texts(pairs), random.Random(seed), 0
    negatives: dict[str, list[str]] = {}
    for (anchor, own), places in zip(taken.items(), found, strict=True):
        chosen = [texts[place] for place in places if texts[place] not in own][:number]
        while len(chosen) < number:
            text = generator.choice(texts)
            if text not in own and text not in chosen:
                chosen.append(text)
                drawn += 1
        negatives[anchor] = chosen
    return [(*pair, *negatives[pair[0]]) for pair in pairs], drawn
