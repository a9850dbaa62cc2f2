"""Model, candidates and scores of `trine train-reranker`."""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sentence_transformers import CrossEncoder, CrossEncoderTrainer
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.modules import Transformer
from tokenizers import processors

from trine.configuration.patterns import check_choice
from trine.modeling.pooling import POOLINGS
from trine.retrieval.bm25 import BM25
from trine.retrieval.hybrid import HybridSearch
from trine.retrieval.reranking import cut_documents, rank_again
from trine.retrieval.scores import DEPTH, Retrieval
from trine.retrieval.words import Words
from trine.scripts.arguments.rerankers import RerankerArguments
from trine.scripts.jobs.cut_texts import say_cut
from trine.scripts.jobs.encoders import check_weights, load_encoder
from trine.scripts.jobs.finetuning import load_parts
from trine.training.new_heads import without_load_report
from trine.training.run.freezing import PartialTrainingMixin


class RerankerTrainer(PartialTrainingMixin, CrossEncoderTrainer):
    """The trainer of sentence-transformers with rates for layers, and unfreezing."""


class Candidates(NamedTuple):
    """Held-out anchors with the texts that a search finds for them, the best first.

    Args:
        retrieval: The anchors, all texts, and which are right.
        found: For each anchor the ids of texts.
    """

    retrieval: Retrieval
    found: list[list[str]]

    def found_share(self) -> float:
        """The share of the anchors for which a right text is among the candidates."""
        relevant = self.retrieval.relevant
        names = zip(self.retrieval.queries, self.found, strict=True)
        return float(np.mean([not relevant[name].isdisjoint(ids) for name, ids in names]))

    def first_scores(self) -> dict[str, np.ndarray]:
        """Scores of the search, as of `Retrieval.measure`."""
        return self.retrieval.measure(self.found)

    def scores(self, model: CrossEncoder) -> dict[str, np.ndarray]:
        """Scores after a model has ranked the candidates again."""
        ranked = []
        for query, ids in zip(self.retrieval.queries.values(), self.found, strict=True):
            order = rank_again(model, query, [self.retrieval.corpus[id_] for id_ in ids])
            ranked.append([ids[each.place] for each in order])
        return self.retrieval.measure(ranked)


class CandidatesEvaluator(BaseEvaluator):
    """Scores of a model during training, for the trainer.

    That of sentence-transformers fails where a search finds a single text.

    Args:
        candidates: What is ranked again.
    """

    def __init__(self, candidates: Candidates):
        super().__init__()
        self.candidates, self.primary_metric = candidates, f"ndcg@{DEPTH}"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """The means over all anchors, by their names."""
        means = {name: float(each.mean()) for name, each in self.candidates.scores(model).items()}
        self.store_metrics_in_model_card_data(model, means, epoch, steps)
        return means


def load_cross_encoder(arguments: RerankerArguments, device: str | None = None) -> CrossEncoder:
    """The model with a head for one score; it cuts documents, never queries.

    Raises:
        OSError: It cannot be read.
        ValueError: Its checkpoint has a head for several labels or lacks weights, or it has no such pooling.
    """
    code: dict[str, Any] = {"trust_remote_code": arguments.trust_remote_code}
    config, tokenizer = load_parts(arguments)
    kind = (config.architectures or [""])[0]
    if kind.endswith("ForSequenceClassification") and config.num_labels != 1:
        raise ValueError(
            f"model='{arguments.model}' has a head for num_labels={config.num_labels}, but a reranker gives a pair "
            "one score: name the model that it was made of."
        )
    changes: dict[str, Any] = {"num_labels": 1, "pad_token_id": config.pad_token_id}
    if arguments.pooling is not None:
        if config.model_type != "trine":
            raise ValueError(
                f"pooling='{arguments.pooling}' is for models of type 'trine'; model='{arguments.model}' is of "
                f"'{config.model_type}'."
            )
        check_choice("pooling", arguments.pooling, POOLINGS)
        changes["classifier_pooling"] = arguments.pooling
    separate_pairs(tokenizer, arguments.model)
    with without_load_report():  # `check_weights` says what matters
        transformer: Any = Transformer(
            arguments.model,
            transformer_task="sequence-classification",
            model_kwargs={"dtype": "float32", **code},
            processor_kwargs=code,
            config_kwargs={**changes, **code},
        )
    check_weights(arguments.model, transformer.model.base_model, code)
    tokenizer.model_max_length = arguments.max_length
    transformer.processor = tokenizer
    return cut_documents(CrossEncoder(modules=[transformer], device=device))


def separate_pairs(tokenizer: Any, name: str) -> None:
    """Lets a tokenizer that writes two texts without anything between them end each with its token for the end."""
    if tokenizer.num_special_tokens_to_add(pair=True):
        return
    if tokenizer.eos_token is None or not tokenizer.is_fast:
        raise ValueError(
            f"The tokenizer of model='{name}' writes nothing between two texts, and has no token for an end."
        )
    end = f"{tokenizer.eos_token}"
    template = processors.TemplateProcessing(
        single="$A", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    before = tokenizer.backend_tokenizer.post_processor
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([before, template]) if before else template
    print(f"The tokenizer writes nothing between two texts: {end!r} ends each of them.")


def check_lengths(model: CrossEncoder, rows: Sequence[tuple[str, ...]], max_length: int) -> int:
    """Counts, and prints, the texts that are cut off.

    Raises:
        ValueError: An anchor leaves no room for a text.
    """
    anchors = [*dict.fromkeys(row[0] for row in rows)]
    encode: Any = model.tokenizer
    pairs = encode(anchors, [""] * len(anchors), verbose=False)["input_ids"]
    sizes = {text: len(ids) for text, ids in zip(anchors, pairs, strict=True)}
    if long := [text for text, size in sizes.items() if size >= max_length]:
        raise ValueError(
            f"{len(long)} anchors, such as {long[0][:60]!r}, leave no room for a text in max_length={max_length}: an "
            "anchor is never cut. Leave them out, or choose a larger one."
        )
    texts = [*dict.fromkeys(text for row in rows for text in row[1:])]
    alone = encode(texts, add_special_tokens=False, verbose=False)["input_ids"]
    own = {text: len(ids) for text, ids in zip(texts, alone, strict=True)}
    lengths = [sizes[row[0]] + own[text] for row in rows for text in row[1:]]
    cut = sum(length > max_length for length in lengths)
    say_cut(cut, len(lengths), "texts", max_length)
    return cut


def find_candidates(
    pairs: Sequence[tuple[str, ...]], arguments: RerankerArguments, miner: str | None, seed: int, device: str | None
) -> Candidates:
    """Searches for held-out anchors by BM25, or with a model by vectors and words together.

    Args:
        pairs: Those that are held out. All of their texts can be found.
        arguments: How many anchors, and texts for each.
        miner: The model.
        seed: Which anchors, where there are more.
        device: Where the model computes.
    """
    whole = Retrieval.from_pairs([pair[:2] for pair in pairs])
    names = sorted(random.Random(seed).sample([*whole.queries], min(arguments.validation_queries, len(whole.queries))))
    queries = {name: whole.queries[name] for name in names}
    retrieval = Retrieval(queries, whole.corpus, {name: whole.relevant[name] for name in names})
    if miner is None:
        return Candidates(retrieval, search_words(retrieval, arguments.candidates))
    search = HybridSearch(load_encoder(miner, device, arguments.trust_remote_code), whole.corpus)
    found = search.search_all([*queries.values()], arguments.candidates)
    return Candidates(retrieval, [[hit.id for hit in hits] for hits in found])


def search_words(retrieval: Retrieval, depth: int) -> list[list[str]]:
    """The ids of the texts that BM25 finds for each anchor."""
    ids, words = [*retrieval.corpus], Words()
    bm25, found = BM25.of(retrieval.corpus.values(), words), []
    for query in retrieval.queries.values():
        scores = bm25.scores(words(query))
        best = np.argsort(-scores, kind="stable")[:depth]
        found.append([ids[place] for place in best if scores[place] > 0])
    return found
