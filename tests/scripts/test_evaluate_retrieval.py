"""`trine evaluate-retrieval`: its scores are those of ir-measures by hand, of sentence-transformers and of bm25s."""

import json
import math
import re

import ir_measures
import numpy as np
import pytest
from sentence_transformers import CrossEncoder
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from support.searches import DOCUMENTS, LONG, QUERIES, both_scores, save_classifier, save_encoder

from trine.retrieval import EmbeddedStore, HybridSearch, load_reranker
from trine.scripts import evaluate_retrieval, index
from trine.scripts.jobs.encoders import load_encoder
from trine.scripts.jobs.retrieval_runs import call_them, falling, measure_runs, parse_metrics
from trine.training.measures.intervals import bootstrap_interval


ASKED = {f"q{n}": text for n, text in enumerate([*QUERIES, "white horse by the blue stone"])}
# Judgments of 0 to 2; q4 ("the of and") finds nothing by words, and q5 ("zebra") has no relevant document.
QRELS = {
    "q0": {"red-house": 2, "red-river": 1, "blue-lamp": 0},
    "q1": {"black-bird": 1},
    "q2": {"red-river": 1, "blue-river": 2, "green-stone": 1},
    "q3": {"white-stone": 1, "white-lamp": 2},
    "q4": {"brown-bird": 1},
    "q5": {"brown-bird": 0},
    "q6": {"white-horse": 1},
}
RELEVANT = {id_: found for id_, found in QRELS.items() if max(found.values()) > 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder, judged queries in BEIR's layout, pairs, and an index."""
    folder = tmp_path_factory.mktemp("retrieval")
    save_encoder(folder / "encoder")
    halves = {id_: text.split(" ", 1) for id_, text in DOCUMENTS.items()}
    write(folder / "beir", {id_: {"title": title, "text": text} for id_, (title, text) in halves.items()})
    pairs = [{"anchor": f"a {id_.replace('-', ' ')}", "positive": text} for id_, text in DOCUMENTS.items()]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    files = ["--files", str(folder / "pairs.jsonl"), "--text_field", "positive", "--device", "cpu"]
    index.main([*files, "--model", str(folder / "encoder"), "--output_dir", str(folder / "index")])
    return folder


def write(folder, documents, qrels=QRELS, header="query-id\tcorpus-id\tscore\n"):
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, records in (("corpus", documents), ("queries", {id_: {"text": text} for id_, text in ASKED.items()})):
        lines = [json.dumps({"_id": id_, **record}) + "\n" for id_, record in records.items()]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    lines = [f"{query}\t{id_}\t{value}\n" for query, found in qrels.items() for id_, value in found.items()]
    (folder / "qrels" / "test.tsv").write_text(header + "".join(lines))


def evaluate(capsys, *argv):
    """metrics.json as it is printed."""
    evaluate_retrieval.main([*map(str, argv), "--json", "--device", "cpu"])
    return json.loads(capsys.readouterr().out)


def by_hand(rank_of, k=10):
    """nDCG, recall and reciprocal rank at k, from the best ids of each query."""
    scores = {"nDCG": [], "R": [], "RR": []}
    for query, judged in RELEVANT.items():
        gains = [judged.get(id_, 0) for id_ in rank_of[query][:k]]
        ideal = sorted(judged.values(), reverse=True)[:k]
        discounted = [sum(g / math.log2(n + 2) for n, g in enumerate(each)) for each in (gains, ideal)]
        scores["nDCG"].append(discounted[0] / discounted[1])
        scores["R"].append(sum(g > 0 for g in gains) / sum(v > 0 for v in judged.values()))
        scores["RR"].append(next((1 / (n + 1) for n, g in enumerate(gains) if g), 0.0))
    return {f"{name}@{k}": np.mean(values) for name, values in scores.items()}


def test_each_system_scores_what_others_compute(folder, capsys):
    options = ["--models", folder / "encoder", "--metrics", "ndcg@10", "recall@10", "MRR@10"]
    metrics = evaluate(capsys, "--data_folder", folder / "beir", *options)
    sizes = {"queries": 6, "documents": 36, "relevant": 10, "queries_without_relevant": 1}
    assert {name: metrics[name] for name in sizes} == sizes
    scores, model = metrics["scores"], load_encoder(str(folder / "encoder"), "cpu")
    assert [*scores] == ["BM25", "encoder", "encoder + BM25"] and metrics["first"] == "BM25"

    positive = {query: {id_ for id_, value in found.items() if value} for query, found in RELEVANT.items()}
    library = InformationRetrievalEvaluator(
        ASKED, DOCUMENTS, positive, precision_recall_at_k=[10], mrr_at_k=[10], write_csv=False
    )(model)
    assert scores["encoder"]["R@10"] == pytest.approx(library["cosine_recall@10"], abs=1e-9)
    assert scores["encoder"]["RR@10"] == pytest.approx(library["cosine_mrr@10"], abs=1e-9)

    both = {query: both_scores(model, DOCUMENTS, ASKED[query]) for query in RELEVANT}
    ids = [*DOCUMENTS]
    dense = {query: [ids[place] for place in np.argsort(-cosines)] for query, (cosines, _) in both.items()}
    order = {query: np.argsort(-words, kind="stable") for query, (_, words) in both.items()}
    words = {query: [ids[place] for place in places if both[query][1][place] > 0] for query, places in order.items()}
    search = HybridSearch(model, DOCUMENTS, store=EmbeddedStore(exact=True))
    hybrid = {query: [hit.id for hit in search.search(ASKED[query], 36)] for query in RELEVANT}
    assert scores["encoder"] == pytest.approx(by_hand(dense), abs=1e-9)
    assert scores["BM25"] == pytest.approx(by_hand(words), abs=1e-9)
    assert scores["encoder + BM25"] == pytest.approx(by_hand(hybrid), abs=1e-9)
    for name in ("encoder", "encoder + BM25"):
        above = {measure: value - scores["BM25"][measure] for measure, value in scores[name].items()}
        assert metrics["differences"][name] == pytest.approx(above)


def test_measures_and_intervals_of_runs_made_by_hand():
    qrels = {"a": {"x": 3, "y": 1}, "b": {"x": 1}, "c": {"z": 1}}
    runs = {"one": {"a": {"y": 2.0, "w": 1.5, "x": 1.0}, "b": {"w": 1.0, "x": 0.5}}, "two": {"a": {"x": 1.0}, "c": {}}}
    values = measure_runs(runs, qrels, parse_metrics(["nDCG@10", "R@2", "RR@1", "RR"]))
    log = math.log2
    ideal = 3 + 1 / log(3)
    assert values["one"]["nDCG@10"] == pytest.approx([(1 + 3 / log(4)) / ideal, 1 / log(3), 0])
    assert values["one"]["R@2"].tolist() == [0.5, 1, 0] and values["one"]["RR@1"].tolist() == [1, 0, 0]
    assert values["one"]["RR"].tolist() == [1, 0.5, 0]
    assert values["two"]["nDCG@10"] == pytest.approx([3 / ideal, 0, 0])
    summary = evaluate_retrieval.summarize(values)
    gain = values["two"]["RR"] - values["one"]["RR"]
    assert summary["differences"]["two"]["RR"] == pytest.approx(-0.5 / 3)
    assert summary["difference_intervals"]["two"]["RR"] == [*bootstrap_interval(gain)] == [-0.5, 0.0]


def test_pairs_an_index_and_what_is_written(folder, tmp_path, capsys):
    options = ["--models", folder / "encoder", "--index", folder / "index", "--metrics", "nDCG@5", "Success@1"]
    metrics = evaluate(
        capsys, "--files", folder / "pairs.jsonl", *options, "--output_dir", tmp_path / "out", "--save_runs"
    )
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["scores"]["index index"] == metrics["scores"]["encoder + BM25"]
    assert metrics["queries"] == metrics["documents"] == metrics["relevant"] == 36
    page = (tmp_path / "out" / "README.md").read_text()
    assert f"{metrics['scores']['BM25']['nDCG@5']:.4f} (" in page and "trine evaluate-retrieval --files" in page
    # What is written is a test set in BEIR's layout and runs of it, of which ir-measures computes the same.
    lines = (tmp_path / "out" / "data" / "qrels" / "test.tsv").read_text().splitlines()[1:]
    qrels = [ir_measures.Qrel(*line.split("\t")[:2], 1) for line in lines]
    for file, name in zip(("BM25", "encoder", "encoder___BM25", "index_index"), metrics["scores"], strict=True):
        run = list(ir_measures.read_trec_run(str(tmp_path / "out" / "runs" / f"{file}.trec")))
        found = ir_measures.calc_aggregate(parse_metrics(["nDCG@5", "Success@1"]), qrels, run)
        assert {str(m): v for m, v in found.items()} == pytest.approx(metrics["scores"][name])
    again = evaluate(capsys, "--data_folder", tmp_path / "out" / "data", *options[:2], *options[4:])
    assert again["scores"] == {name: metrics["scores"][name] for name in again["scores"]}
    evaluate_retrieval.main(["--files", str(folder / "pairs.jsonl"), "--max_queries", "5"])
    told = capsys.readouterr().out
    assert told.startswith("5 queries, 36 documents") and "| BM25" in told and "above" not in told


def test_an_index_that_lacks_documents(folder, tmp_path, capsys):
    (tmp_path / "more.jsonl").write_text(
        (folder / "pairs.jsonl").read_text() + '{"anchor": "tent", "positive": "a tent"}\n'
    )
    options = ["--index", folder / "index", "--bm25", "false", "--metrics", "R@100"]
    metrics = evaluate(capsys, "--files", tmp_path / "more.jsonl", *options)
    assert metrics["scores"] == {"index index": {"R@100": pytest.approx(36 / 37)}}
    evaluate_retrieval.main(["--files", str(tmp_path / "more.jsonl"), *map(str, options)])
    assert "1 of 37 relevant documents are not there" in capsys.readouterr().err
    (tmp_path / "other.jsonl").write_text('{"anchor": "tent", "positive": "a tent"}\n')
    with pytest.raises(SystemExit, match="'index index' holds none of the 1 relevant documents: none with the text"):
        evaluate(capsys, "--files", tmp_path / "other.jsonl", *options)
    with pytest.raises(SystemExit, match="none with the id of a document"):
        evaluate(capsys, "--data_folder", folder / "beir", *options)


def test_what_a_reranker_adds(folder, capsys):
    save_classifier(folder / "cross")
    search = HybridSearch(load_encoder(str(folder / "encoder"), "cpu"), DOCUMENTS)
    model, order = CrossEncoder(str(folder / "cross"), device="cpu"), {}
    for query in RELEVANT:
        found = search.search(ASKED[query], 36)
        best = model.rank(ASKED[query], [hit.text for hit in found[:5]])
        order[query] = [found[each["corpus_id"]].id for each in best] + [hit.id for hit in found[5:]]
    options = ["--models", folder / "encoder", "--rerank", folder / "cross", "--rerank_candidates", "5"]
    options += ["--rerank_weight", "1"]
    metrics = evaluate(capsys, "--data_folder", folder / "beir", *options, "--metrics", "nDCG@10", "R@10", "RR@10")
    assert [*metrics["scores"]] == ["BM25", "encoder", "encoder + BM25", "reranked by cross"]
    assert metrics["scores"]["reranked by cross"] == pytest.approx(by_hand(order), abs=1e-9)
    assert metrics["scores"]["reranked by cross"] != metrics["scores"]["encoder + BM25"]
    index_option = ["--index", folder / "index", "--rerank", folder / "cross", "--output_dir", folder / "out"]
    (folder / "one.jsonl").write_text((folder / "pairs.jsonl").read_text().splitlines()[0])  # the index holds more
    assert "reranked by cross" in evaluate(capsys, "--files", folder / "one.jsonl", *index_option)["scores"]
    assert "the 50 best of index index, ranked again by" in (folder / "out" / "README.md").read_text()


def test_an_index_of_chunks(folder, capsys, tmp_path):
    """The best chunk counts for its document, which is known by its id or by its whole text."""
    search = HybridSearch(load_encoder(str(folder / "encoder"), "cpu"), LONG, late_chunking=True)
    search.save(tmp_path / "chunks")
    asked = {"q1": ("a red house", "first"), "q2": ("黑鸟", "黑鸟"), "q3": ("the river", "a#1-2")}
    order = {}
    for name, (query, _) in asked.items():
        order[name] = [*dict.fromkeys(hit.document for hit in search.search(query, 50))]
    ranks = [1 + order[name].index(right) for name, (_, right) in asked.items()]
    pairs = [{"anchor": query, "positive": LONG[right]} for query, right in asked.values()]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    options = ["--index", tmp_path / "chunks", "--bm25", "false", "--metrics", "RR@10"]
    metrics = evaluate(capsys, "--files", tmp_path / "long.jsonl", *options)
    assert metrics["scores"] == {"index chunks": {"RR@10": pytest.approx(np.mean([1 / rank for rank in ranks]))}}


def test_search_and_reranker_are_weighed(folder, capsys):
    save_classifier(folder / "cross")
    search = HybridSearch(load_encoder(str(folder / "encoder"), "cpu"), DOCUMENTS)
    model, weights = load_reranker(str(folder / "cross"), device="cpu"), {"0.3": {}, "0.6": {}, "1": {}}
    for weight, order in weights.items():
        for query in RELEVANT:
            options = {"rerank": model, "rerank_candidates": 5, "rerank_weight": float(weight)}
            best = [hit.id for hit in search.search(ASKED[query], 5, **options)]
            order[query] = best + [hit.id for hit in search.search(ASKED[query], 36) if hit.id not in best]
    options = ["--models", folder / "encoder", "--rerank", folder / "cross", "--rerank_candidates", "5"]
    options += ["--rerank_weight", *weights, "--output_dir", folder / "weighed"]
    metrics = evaluate(capsys, "--data_folder", folder / "beir", *options, "--metrics", "nDCG@10", "R@10", "RR@10")
    for weight, order in weights.items():
        assert metrics["scores"][f"reranked by cross, weight {weight}"] == pytest.approx(by_hand(order), abs=1e-9)
    assert "whose scores have the weight 0.3 (min-max)" in (folder / "weighed" / "README.md").read_text()


def test_equal_scores_keep_their_order():
    scores = falling([("z", 1.0), ("b", 1.0), ("z", 0.9), ("a", 1.0), ("y", -2.0)])
    assert [*scores] == ["z", "b", "a", "y"] and scores["y"] == -2.0
    assert scores["z"] == 1.0 > scores["b"] > scores["a"] > 0.9999998
    assert measure_runs({"r": {"q": scores}}, {"q": {"b": 1}}, parse_metrics(["RR", "P@1"]))["r"]["RR"] == 0.5


def test_names_of_columns():
    assert call_them(["a/b", "c/d"]) == {"a/b": "b", "c/d": "d"}
    assert call_them(["a/b", "c/b", "d"]) == {"a/b": "a/b", "c/b": "c/b", "d": "d"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of them"),
        (["--data_folder", "x", "--files", "y"], "give one of them"),
        (["--files", "x", "--index", "a", "--store", "b"], "index='a' and store='b': give one of them"),
        (["--files", "x", "--bm25", "false"], "leaves no system to evaluate"),
        (["--files", "x", "--dense_weight", "-1"], "dense_weight=-1.0 must be a finite number"),
        (["--files", "x", "--chinese", "words"], "chinese='words' is not one of"),
        (["--files", "x", "--max_queries", "0"], "max_queries=0 must be a whole number of at least 1"),
        (["--files", "x", "--batch_size", "0"], "batch_size=0 must be"),
        (["--files", "x", "--rerank_candidates", "0"], "rerank_candidates=0 must be"),
        (["--files", "x", "--rerank_weight", "0.5", "2"], "rerank_weight=2.0 must be a number above 0"),
        (["--files", "pairs.jsonl", "--rerank", "encoder"], "rerank='encoder' holds TrineModel, which has no score"),
        (["--files", "x", "--save_runs"], "save_runs=True needs an output_dir"),
        (["--files", "x", "--metrics", "foo@10"], "metrics.0.='foo@10' is no measure of ir-measures"),
        (["--files", "x", "--metrics", "alpha_nDCG@10"], "metrics.0.='alpha_nDCG@10' is no measure"),
        (["--files", "x", "--metrics", "AP", "nDCG@0"], "metrics.1.='nDCG@0' .*: its cutoff 0 must be at least 1"),
        (["--files", "x", "--metrics", "P@0"], "metrics.0.='P@0' .*: its cutoff 0 must be at least 1"),
        (["--files", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--files", "pairs.jsonl", "--models", "no/where/folder"], "there is no such folder"),
        (["--files", "empty.jsonl"], "hold no pairs"),
        (["--files", "pairs.jsonl", "--positive_field", "text"], "the field 'text' is missing"),
        (["--files", "pairs.jsonl", "--index", "encoder"], "holds no index.json"),
        (["--data_folder", "encoder"], "data_folder='encoder' has no corpus.jsonl; a data set of BEIR's layout holds"),
        (["--data_folder", "beir", "--split", "dev"], r"has no qrels/dev.tsv.*Its splits are \['test'\]"),
    ],
)
def test_what_is_refused(folder, options, message, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "empty.jsonl").touch()
    with pytest.raises(SystemExit) as stop:
        evaluate_retrieval.main(options)
    told = f"{stop.value.code} {capsys.readouterr().err}"
    assert re.search(message, told, flags=re.DOTALL), told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("corpus.jsonl", '{"_id": "red-house", "text": "x"}'), "the field '_id' holds 'red-house', which an earlier"),
        (("corpus.jsonl", '{"_id": "new", "text": " ", "title": ""}'), "the field 'text' is empty"),
        (("corpus.jsonl", '{"_id": "", "text": "x"}'), "the field '_id' is empty"),
        (("corpus.jsonl", '{"_id": "new", "text": "x", "title": 3}'), "the field 'title' holds an int"),
        (("queries.jsonl", '{"_id": "new"}'), "the field 'text' is missing"),
        (("qrels/test.tsv", "q0\tred-house"), "is not query, document and a whole number"),
        (("qrels/test.tsv", "q9\tred-house\t1"), "names the query 'q9', which is not there"),
        (("qrels/test.tsv", "q0\tgrey-house\t1"), "names the document 'grey-house', which is not there"),
    ],
)
def test_bad_records_are_told_and_may_be_left_out(folder, tmp_path, capsys, change, message):
    write(tmp_path, {id_: {"text": text} for id_, text in DOCUMENTS.items()}, header="")
    file, line = change
    with (tmp_path / file).open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(SystemExit, match=f"(?s)1 records cannot be used.*{message}"):
        evaluate(capsys, "--data_folder", tmp_path)
    with pytest.warns(UserWarning, match=message):
        assert evaluate(capsys, "--data_folder", tmp_path, "--skip_bad_records")["queries"] == 6


def test_judgments_without_a_relevant_document_or_in_another_encoding(tmp_path, capsys):
    write(tmp_path, {id_: {"text": text} for id_, text in DOCUMENTS.items()}, {"q0": {"red-house": 0}})
    (tmp_path / "qrels" / "test.tsv").rename(tmp_path / "qrels.tsv")
    (tmp_path / "qrels").rmdir()
    with pytest.raises(SystemExit, match="judge no document above 0"):
        evaluate(capsys, "--data_folder", tmp_path)
    (tmp_path / "qrels.tsv").write_bytes("ä".encode("latin-1"))
    with pytest.raises(SystemExit, match="is not UTF-8 text"):
        evaluate(capsys, "--data_folder", tmp_path)
    write(tmp_path, {"a b": {"text": "a text"}}, {"q0": {"a b": 1}})
    with pytest.raises(SystemExit, match="the id 'a b' has white space"):
        evaluate(capsys, "--data_folder", tmp_path, "--output_dir", tmp_path / "out", "--save_runs")
