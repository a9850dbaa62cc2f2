"""Ranking again what hybrid search has found: by a CrossEncoder and by a list, and what is refused."""

import math

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from support.searches import DOCUMENTS, save_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trine import TrineConfig, TrineForCausalLM, TrineForSequenceClassification
from trine.retrieval import HybridSearch, ListwiseReranker, load_reranker
from trine.retrieval.reranking import check_rerank_weight, mix, rank_again


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder, a cross-encoder, one of three labels, and a decoder, all with the encoder's tokenizer."""
    folder = tmp_path_factory.mktemp("reranking")
    save_encoder(folder / "encoder")
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder")
    for name, model_class, fields in (
        ("cross", TrineForSequenceClassification, {"is_causal": False, "num_labels": 1}),
        ("three", TrineForSequenceClassification, {"is_causal": False, "num_labels": 3}),
        ("decoder", TrineForCausalLM, {"max_position_embeddings": 1024}),
    ):
        torch.manual_seed(1)
        config = TrineConfig.from_preset(
            "tiny", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **fields
        )
        model = model_class(config)
        if model_class is TrineForSequenceClassification:
            torch.nn.init.normal_(model.classifier.weight)  # else all scores are alike
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    CrossEncoder(str(folder / "cross"), device="cpu", max_length=24).save_pretrained(str(folder / "saved"))
    return folder


@pytest.fixture(scope="module")
def search(folder):
    return HybridSearch(SentenceTransformer(str(folder / "encoder"), device="cpu"), DOCUMENTS)


class ByLength:
    """The longest text is the best."""

    def rank(self, query, documents):
        order = sorted(range(len(documents)), key=lambda place: -len(documents[place]))
        return [{"corpus_id": place, "score": len(documents[place])} for place in order]


class Wrong:
    def __init__(self, *rows):
        self.rows = [{"corpus_id": place, "score": score} for place, score in rows]

    def rank(self, query, documents):
        return self.rows


def test_the_best_are_ranked_again(search):
    before = search.search("a red house", 12)
    for k, candidates in ((3, 12), (12, 3), (12, 12)):
        first = before[: max(k, candidates)]
        expected = sorted(first, key=lambda hit: -len(hit.text))[:k]
        found = search.search("a red house", k, rerank=ByLength(), rerank_candidates=candidates, rerank_weight=1)
        assert [hit.id for hit in found] == [hit.id for hit in expected]
        assert [hit.rerank for hit in found] == [len(hit.text) for hit in expected]
        assert [hit._replace(rerank=None) for hit in found] == expected
    assert before[0].rerank is None
    pairs = search.search_all(["red", "blue lamp"], 2, rerank=ByLength(), rerank_weight=1)
    assert [hits[0].rerank for hits in pairs] == [
        max(len(hit.text) for hit in search.search(q, 50)) for q in ("red", "blue lamp")
    ]


def normalised(scores, fusion):
    """The definitions, number by number."""
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    by_rank = sorted(range(len(scores)), key=lambda place: -scores[place])
    last = len(scores) + 1
    ranks = [last if score == min(scores) else by_rank.index(place) + 1 for place, score in enumerate(scores)]
    return {
        "min-max": [(score - min(scores)) / (max(scores) - min(scores)) for score in scores],
        "z-score": [(score - mean) / deviation for score in scores],
        "rrf": [1 / (60 + rank) for rank in ranks],
    }[fusion]


@pytest.mark.parametrize("fusion", ["min-max", "z-score", "rrf"])
@pytest.mark.parametrize("weight", [0.2, 0.5])
def test_search_and_reranker_are_added(search, fusion, weight):
    own = HybridSearch(search.model, store=search.store, fusion=fusion)
    before = own.search("a red house", 12)
    parts = normalised([len(hit.text) for hit in before], fusion)
    rest = normalised([hit.score for hit in before], fusion)
    totals = [weight * part + (1 - weight) * each for part, each in zip(parts, rest, strict=True)]
    order = sorted(range(12), key=lambda place: -totals[place])[:5]
    found = own.search("a red house", 5, rerank=ByLength(), rerank_candidates=12, rerank_weight=weight)
    assert [hit.id for hit in found] == [before[place].id for place in order]
    assert [hit.mixed for hit in found] == pytest.approx([totals[place] for place in order])
    assert [hit.rerank_part for hit in found] == pytest.approx([weight * parts[place] for place in order])
    assert [hit.ranked_by for hit in found] == [hit.mixed for hit in found]
    assert own.search("red", 9, rerank=ByLength()) == own.search("red", 9, rerank=ByLength(), rerank_weight=0.3)
    bare = {"rerank": None, "rerank_part": None, "mixed": None}
    assert [hit._replace(**bare) for hit in found] == [before[place] for place in order]
    alone = own.search("a red house", 5, rerank=ByLength(), rerank_candidates=12, rerank_weight=1)
    assert [hit.ranked_by for hit in alone] == [hit.rerank for hit in alone] and alone[0].mixed is None
    assert before[0].ranked_by == before[0].score


def test_scores_that_are_equal_add_nothing():
    ranked = rank_again(Wrong((2, 1.0), (0, 1.0), (1, 1.0)), "red", ["a", "b", "c"])
    assert [(each.place, each.part) for each in mix(ranked, [0.1, 0.3, 0.2], 0.5, "min-max")] == [
        (1, 0),
        (2, 0),
        (0, 0),
    ]
    ranked = rank_again(Wrong((2, 3.0), (0, 1.0), (1, 2.0)), "red", ["a", "b", "c"])
    assert [each.place for each in mix(ranked, [0.1, 0.1, 0.1], 0.1, "z-score")] == [2, 1, 0]
    assert mix([], [], 0.5, "min-max") == []


@pytest.mark.parametrize("weight", [0, 1.01, -1, float("nan"), True, "0.5", None])
def test_weights_of_no_use(search, weight):
    with pytest.raises(
        ValueError, match=r"rerank_weight=.* must be a number above 0 and at most 1, the reranker alone"
    ):
        search.search("red", rerank=ByLength(), rerank_weight=weight)
    with pytest.raises(ValueError, match="rerank_weight="):
        check_rerank_weight(weight)


def test_a_cross_encoder_gives_its_own_scores(folder, search):
    model = AutoModelForSequenceClassification.from_pretrained(folder / "cross").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "cross")
    for name in ("cross", "saved"):
        hits = search.search("a red house", 5, rerank=load_reranker(str(folder / name), "cpu"), rerank_weight=1)
        for hit in hits:
            with torch.no_grad():
                logit = model(**tokenizer("a red house", hit.text, return_tensors="pt")).logits.item()
            assert hit.rerank == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)
        assert [hit.rerank for hit in hits] == sorted((hit.rerank for hit in hits), reverse=True)


def test_a_decoder_ranks_a_list(folder, search):
    reranker = load_reranker(str(folder / "decoder"), "cpu", window=6, step=3, method="logits")
    assert isinstance(reranker, ListwiseReranker) and reranker.window == 6
    options = {"rerank": reranker, "rerank_candidates": 15, "rerank_weight": 1}
    before, hits = search.search("river", 15), search.search("river", 15, **options)
    assert {hit.id for hit in hits} == {hit.id for hit in before}
    assert [hit.rerank for hit in hits] == [1 / rank for rank in range(1, 16)]


def test_a_loaded_cross_encoder_cuts_documents_and_no_query(folder):
    model = load_reranker(str(folder / "saved"), "cpu")
    query, long = "a red house by the river", "stone " * 60
    read = model.tokenizer.decode(model.preprocess([(query, long)])["input_ids"][0])
    assert query in read and 0 < read.count("stone") < 24
    assert rank_again(model, query, [long, "red"])
    with pytest.raises(ValueError, match=r"query='stone .* leaves no room for a document in the reranker's 24"):
        rank_again(model, long, ["red"])


def test_no_document_and_equal_scores(folder):
    assert rank_again(load_reranker(str(folder / "saved"), "cpu"), "red", []) == []
    same = Wrong((2, 1.0), (0, 1.0), (1, 2.0))
    assert [each.place for each in rank_again(same, "red", ["a", "b", "c"])] == [1, 0, 2]


@pytest.mark.parametrize(
    ("reranker", "message"),
    [
        (Wrong((0, 1.0)), "gives 1 places for 2 documents, and not each of them once"),
        (Wrong((0, 1.0), (0, 1.0)), "not each of them once"),
        (Wrong((0, 1.0), (1, float("nan"))), "scores that are not finite for 1 documents"),
    ],
)
def test_answers_that_are_no_ranking(reranker, message):
    with pytest.raises(ValueError, match=message):
        rank_again(reranker, "red", ["a", "b"])


def test_what_is_no_reranker(folder, search, tmp_path):
    with pytest.raises(TypeError, match=r"rerank=SentenceTransformer has no method `rank"):
        search.search("red", rerank=search.model)
    with pytest.raises(ValueError, match=r"encoder' holds TrineModel, which has no score for a pair"):
        load_reranker(str(folder / "encoder"), "cpu")
    with pytest.raises(ValueError, match=r"rerank='.*three' has num_labels=3; to rank, a pair needs one score"):
        load_reranker(str(folder / "three"), "cpu")
    with pytest.raises(OSError, match=r"rerank='.*nowhere' cannot be read"):
        load_reranker(str(tmp_path / "nowhere"), "cpu")
    with pytest.raises(ValueError, match=r"rerank_candidates=0 must be a whole number of at least 1"):
        search.search("red", rerank=ByLength(), rerank_candidates=0)
