"""The benchmark of search compares with what is called by hand, and writes what it measured."""

import json
import re

import numpy as np
import pytest
from support.searches import DOCUMENTS, save_encoder

from trine.retrieval.fusion import Candidates
from trine.scripts.benchmarks import search as benchmark


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    lines = [
        json.dumps({"text": text, "title": f"{id_} {number}"}) for number, (id_, text) in enumerate(DOCUMENTS.items())
    ]
    (folder / "docs.jsonl").write_text("\n".join(lines))
    return ["--files", str(folder / "docs.jsonl"), "--model", save_encoder(folder / "encoder"), "--queries", "3"]


@pytest.mark.parametrize("static", [True, False])
def test_a_run_writes_its_report(words, tmp_path, static):
    pytest.importorskip("milvus_lite")
    options = ["--text_fields", "text", "title", "--documents", "40", "--report", str(tmp_path / "report.md")]
    if static:
        options += ["--static", "--exact_stores", str(tmp_path / "a.db"), "--graph_stores", str(tmp_path / "a.db")]
    benchmark.main([*words, *options, "--encoded", "0" if static else "8", "--portions", "2"])
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", (tmp_path / "report.md").read_text(), flags=re.MULTILINE))
    assert rows["recall at 10 of the embedded graph"] == "1.000"
    assert ("indexing, documents a second beside encode alone" in rows) is not static
    if static:
        assert rows["MilvusStore, lists of exact search as the embedded store's"] == "3 of 3"
        assert rows["recall at 10 of MilvusStore's graph"] == "1.000"
        with pytest.raises(SystemExit, match="store='.*a.db' holds a trine_benchmark of an earlier run: remove it"):
            benchmark.main([*words, *options, "--encoded", "0"])


def test_a_list_that_differs_is_not_the_same(monkeypatch):
    class Found:
        def __init__(self, scores):
            self.scores = scores

        def candidates(self, *_):
            return [Candidates([*"abc"], np.array(self.scores), None, 3)]

        def texts(self, ids):
            return {}

    vectors = np.zeros((1, 2))
    for scores, same in (([3.0, 2.0, 1.0], 1), ([2.0, 3.0, 1.0], 0), ([3.0, 1.5, 1.0], 0)):
        assert benchmark.same_lists(Found(scores), Found([3.0, 2.0, 1.0]), ["q"], vectors) == same
    assert (
        benchmark.recall(Found([0.9] * 4), vectors, [0.9]) == 0.4 and benchmark.recall(Found([0.9]), vectors, [1]) == 0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--documents", "40"], "files hold 36 texts; documents and queries need 43"),
        (["--text_fields", "body"], "the field 'body' is missing"),
    ],
)
def test_what_is_refused(words, options, message):
    with pytest.raises(SystemExit, match=f"(?s)trine: .*{message}"):
        benchmark.main([*words, *options])


def test_bad_arguments_are_named():
    for name in ("documents", "queries", "portions", "max_length"):
        with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
            benchmark.SearchBenchmarkArguments(["a"], "m", **{name: 0})
    with pytest.raises(ValueError, match="encoded=3 must be 0, or at least portions=5"):
        benchmark.SearchBenchmarkArguments(["a"], "m", encoded=3)
