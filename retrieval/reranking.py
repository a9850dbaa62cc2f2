"""One way to rank what a first search has found again, for every kind of reranker."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from sentence_transformers import CrossEncoder
from sentence_transformers.util import get_device_name
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ..configuration.patterns import check_choice
from .computing import AUTO, DTYPES, compute_in
from .fusion import FUSIONS
from .listwise import ListwiseReranker


# Of a reranker's score beside that of the search before it: the best of ten on held-out queries, of a MiniLM that was
# trained for minutes; see docs/how-to/rerank.md.
RERANK_WEIGHT = 0.3


class Reranker(Protocol):
    """Ranks documents for a query: a `CrossEncoder`, a `ListwiseReranker`, or another class with this method."""

    def rank(self, query: Any, documents: Any) -> list[Any]:
        """For each document, the best first, its place as `corpus_id`, and its `score`, the higher the better."""
        ...


class Ranked(NamedTuple):
    """A document that was ranked again: its place in the list before, and its score."""

    place: int
    score: float


class Mixed(NamedTuple):
    """A document that is ranked by its reranker and by the search before it.

    Args:
        place: Its place in the list before.
        score: The reranker's score.
        total: The sum of the two normalised scores, by their weights; None where the reranker alone decides.
        part: What the reranker adds to it.
    """

    place: int
    score: float
    total: float | None = None
    part: float | None = None


def rank_again(reranker: Reranker, query: str, documents: Sequence[str]) -> list[Ranked]:
    """Ranks documents, the best first; equal scores keep the order in which they came.

    Raises:
        TypeError: The reranker has no method `rank`.
        ValueError: It gives several scores for a pair, a score that is no number or not finite, or not each document
            once; or the query leaves it no room for a document.
    """
    if not callable(getattr(reranker, "rank", None)):
        raise TypeError(f"rerank={type(reranker).__name__} has no method `rank(query, documents)`.")
    if not documents:
        return []
    if isinstance(reranker, CrossEncoder):
        check_cross_encoder(reranker, query)
    found = [Ranked(int(each["corpus_id"]), float(each["score"])) for each in reranker.rank(query, [*documents])]
    if sorted(each.place for each in found) != [*range(len(documents))]:
        raise ValueError(
            f"rerank={type(reranker).__name__} gives {len(found)} places for {len(documents)} documents, and not each "
            "of them once."
        )
    if bad := [each.place for each in found if not math.isfinite(each.score)]:
        raise ValueError(
            f"rerank={type(reranker).__name__} gives scores that are not finite for {len(bad)} documents."
        )
    return sorted(found, key=lambda each: (-each.score, each.place))


def mix(ranked: Sequence[Ranked], before: Sequence[float], weight: float, fusion: str) -> list[Mixed]:
    """Adds the scores of a reranker and of the search before it, made comparable among these documents.

    Args:
        ranked: All documents of a query, in any order.
        before: Their scores in the search, in its order.
        weight: Of the reranker's score, the search has the rest of 1; with 1 its own order stands.
        fusion: How scores are made comparable, one of `FUSIONS`. Those that are all equal add nothing.

    Returns:
        The documents, the best first; equal sums keep the order of the search.
    """
    if weight == 1 or not ranked:
        return [Mixed(*each) for each in ranked]
    scores = np.empty(len(ranked))
    scores[[each.place for each in ranked]] = [each.score for each in ranked]
    parts = [
        share * (FUSIONS[fusion](values, float(values.min()), len(values)) if np.ptp(values) > 0 else 0 * values)
        for share, values in ((weight, scores), (1 - weight, np.asarray(before, dtype=np.float64)))
    ]
    totals = parts[0] + parts[1]
    order: list[int] = np.argsort(-totals, kind="stable").tolist()
    return [Mixed(place, float(scores[place]), float(totals[place]), float(parts[0][place])) for place in order]


def check_rerank_weight(weight: Any) -> None:
    """Raises a ValueError for a weight that is no number above 0 and at most 1."""
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight <= 1:
        raise ValueError(f"rerank_weight={weight!r} must be a number above 0 and at most 1, the reranker alone.")


def check_cross_encoder(model: CrossEncoder, query: str | None = None) -> None:
    """Raises a ValueError for a model with several scores for a pair, and for a query that fills its whole input."""
    if model.num_labels != 1:
        raise ValueError(
            f"rerank='{name_of(model)}' has num_labels={model.num_labels}; to rank, a pair needs one score."
        )
    limit = model.max_seq_length
    if query is None or limit is None:
        return
    tokens = len(model.tokenizer(query, "", verbose=False)["input_ids"])
    if tokens >= limit:
        raise ValueError(
            f"query={query[:40]!r}... has {tokens} tokens with those around it, which leaves no room for a document "
            f"in the reranker's {limit}."
        )


def name_of(model: CrossEncoder) -> str:
    """Where a CrossEncoder was loaded from, or else its class."""
    transformer: Any = model[0]
    return getattr(transformer.model.config, "name_or_path", "") or type(model).__name__


def load_reranker(
    name: str, device: str | None = None, trust_remote_code: bool = False, dtype: str = AUTO, **options: Any
) -> Reranker:
    """Loads a `CrossEncoder`, or a causal language model as `ListwiseReranker`.

    Args:
        name: A folder, or a name on the Hub.
        device: Where it computes, by default the accelerator.
        trust_remote_code: Whether code that comes with the model may run.
        dtype: In which type it computes, one of `DTYPES`: a language model with weights of this type, a `CrossEncoder`
            as `compute_in` does.
        options: Of `ListwiseReranker`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is neither, gives several scores for a pair, or there is no such type.
    """
    check_choice("dtype", dtype, DTYPES)
    code: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(name, **code)
    except (OSError, ValueError) as error:
        raise OSError(f"rerank='{name}' cannot be read: {error}") from error
    kind = (getattr(config, "architectures", None) or ["nothing that is named"])[0]
    if kind.endswith("ForSequenceClassification") or is_saved_cross_encoder(name):
        model = cut_documents(CrossEncoder(name, device=device, **code))
        check_cross_encoder(model)
        return compute_in(model, dtype)
    if kind.endswith(("ForCausalLM", "LMHeadModel")):
        tokenizer = AutoTokenizer.from_pretrained(name, **code)
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **code)
        return ListwiseReranker(model.to(device or get_device_name()), tokenizer, **options)
    raise ValueError(
        f"rerank='{name}' holds {kind}, which has no score for a pair: name the folder of a CrossEncoder, which trine "
        "train-reranker makes, or of a causal language model."
    )


def is_saved_cross_encoder(name: str) -> bool:
    """Whether a folder is one that `CrossEncoder.save_pretrained` has written."""
    file = Path(name) / "config_sentence_transformers.json"
    return file.is_file() and '"CrossEncoder"' in file.read_text(encoding="utf-8")


def cut_documents(model: CrossEncoder) -> CrossEncoder:
    """Lets a CrossEncoder cut the second text of a pair, the document, and never the first; it is not saved with it.

    Saved, it would fail for texts alone, of which sentence-transformers counts the tokens for its card.
    """
    transformer: Any = model[0]
    transformer.preprocess = partial(preprocess_pairs, transformer)
    return model


def preprocess_pairs(transformer: Any, inputs: Sequence[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Does what `preprocess` of its class does, but that of pairs the second text is cut off."""
    if inputs and isinstance(inputs[0], (tuple, list)):
        kwargs.setdefault("processing_kwargs", {"text": {"truncation": "only_second"}})
    return type(transformer).preprocess(transformer, inputs, *args, **kwargs)
