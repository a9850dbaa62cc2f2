"""`trine serve` embeds and ranks: its numbers are those of sentence-transformers, its errors have a reason."""

import base64
import json
import socket

import numpy as np
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Normalize
from support.searches import DOCUMENTS, save_classifier, save_encoder

from trine.scripts import serve
from trine.scripts.jobs.encoders import load_cross_encoder, load_encoder


pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")
TEXTS = [*DOCUMENTS.values()][:5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An embedding model of 16 tokens with prompts, whose vectors have length 1, and two classifiers."""
    folder = tmp_path_factory.mktemp("vectors")
    model = SentenceTransformer(
        save_encoder(folder / "bare"), device="cpu", prompts={"query": "a red ", "document": ""}
    )
    model.append(Normalize())
    model.max_seq_length = 16
    model.save_pretrained(str(folder / "embed"))
    for labels in (1, 2):
        save_classifier(folder / f"rank{labels}", labels)
    return folder


@pytest.fixture(scope="module")
def models(folder):
    return SentenceTransformer(str(folder / "embed"), device="cpu"), CrossEncoder(str(folder / "rank1"), device="cpu")


@pytest.fixture(scope="module")
def client(folder):
    from fastapi.testclient import TestClient

    from trine.scripts.serving.app import make_app
    from trine.scripts.serving.managers import OneModel
    from trine.scripts.serving.vector_models import EmbeddingModel, RerankModel

    embed = EmbeddingModel("embed", load_encoder(str(folder / "embed"), "cpu"))
    rank = RerankModel("rank", load_cross_encoder(str(folder / "rank1"), "cpu"))
    rank.limit = 16
    return TestClient(make_app([embed, rank], OneModel()), raise_server_exceptions=False)


def vectors_of(client, **body):
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [item["index"] for item in data] == [*range(len(data))]
    return np.array([item["embedding"] for item in data], dtype=np.float32), answer.json()


def test_embeddings_are_those_of_encode(client, models):
    model = models[0]
    found, answer = vectors_of(client, model="embed", input=TEXTS)
    np.testing.assert_allclose(found, model.encode(TEXTS), atol=1e-6)
    tokens = sum(map(len, model.tokenizer(TEXTS)["input_ids"]))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert (answer["object"], answer["model"], answer["data"][0]["object"]) == ("list", "embed", "embedding")
    one, _ = vectors_of(client, input=TEXTS[0])
    np.testing.assert_allclose(one, model.encode(TEXTS[:1]), atol=1e-6)
    ids = model.tokenizer(TEXTS)["input_ids"]
    np.testing.assert_allclose(vectors_of(client, input=ids)[0], found, atol=1e-6)
    np.testing.assert_allclose(vectors_of(client, input=ids[2])[0], found[2:3], atol=1e-6)
    query, answer = vectors_of(client, input="river", input_type="query")
    np.testing.assert_allclose(query, model.encode_query(["river"]), atol=1e-6)
    assert answer["usage"]["total_tokens"] == len(model.tokenizer("a red river")["input_ids"])
    document, _ = vectors_of(client, input="river", input_type="document")
    np.testing.assert_allclose(document, model.encode_document(["river"]), atol=1e-6)
    assert np.abs(query - document).max() > 1e-3


def test_dimensions_base64_and_long_texts(client, models):
    model, long = models[0], "a river by the stone " * 9
    short = model.encode(TEXTS)[:, :8]
    expected = short / np.linalg.norm(short, axis=1, keepdims=True)
    for given in (TEXTS, model.tokenizer(TEXTS)["input_ids"]):
        np.testing.assert_allclose(vectors_of(client, input=given, dimensions=8)[0], expected, atol=1e-6)
    body = {"input": TEXTS, "encoding_format": "base64", "dimensions": 8}
    data = client.post("/v1/embeddings", json=body).json()["data"]
    read = np.stack([np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in data])
    np.testing.assert_allclose(read, expected, atol=1e-6)
    cut, answer = vectors_of(client, input=long, truncate=True)
    np.testing.assert_allclose(cut, model.encode([long]), atol=1e-6)
    assert answer["usage"]["total_tokens"] == 16
    ids = model.tokenizer(long, truncation=False)["input_ids"]
    assert vectors_of(client, input=ids, truncate=True)[1]["usage"]["total_tokens"] == 16


def test_rankings_are_those_of_rank(client, models):
    expected = models[1].rank("the red river", TEXTS)
    body = {"model": "rank", "query": "the red river", "documents": TEXTS}
    for path in ("/v1/rerank", "/v2/rerank"):
        answer = client.post(path, json=body).json()
        assert [each["index"] for each in answer["results"]] == [each["corpus_id"] for each in expected]
        scores = [each["relevance_score"] for each in answer["results"]]
        assert scores == pytest.approx([each["score"] for each in expected], abs=1e-6) and scores[0] > scores[-1]
    pairs = models[1].tokenizer(["the red river"] * 5, TEXTS)["input_ids"]
    assert answer["usage"] == {"total_tokens": sum(min(16, len(pair)) for pair in pairs)} and answer["model"] == "rank"
    more = {"documents": [{"text": text} for text in TEXTS], "top_n": 2, "return_documents": True}
    results = client.post("/v1/rerank", json=body | more).json()["results"]
    assert [each["document"]["text"] for each in results] == [TEXTS[each["corpus_id"]] for each in expected[:2]]


NUMBER = "must be a whole number of at least 1"
BAD_REQUESTS = [
    ("embeddings", {}, "input=None must be a text, a list of texts, or token ids, not empty"),
    ("embeddings", {"input": ""}, "input[0]='' must be a text that is not empty"),
    ("embeddings", {"input": []}, "input=[] must be a text"),
    ("embeddings", {"input": {"a": "x" * 99}}, "... of type dict must be"),
    ("embeddings", {"input": ["a", 3]}, "input[1]=3 must be a text"),
    ("embeddings", {"input": [True]}, "input[0]=True must be a text"),
    ("embeddings", {"input": "\ud800"}, "half a character"),
    ("embeddings", {"input": ["a"] * 2049}, "2,049 items; at most 2,048"),
    ("embeddings", {"input": [[1], []]}, "input[1] must be a list of token ids that is not empty"),
    ("embeddings", {"input": [1, 99999]}, "input[0] holds 99999, which is no token id of the model"),
    ("embeddings", {"input": [-1]}, "input[0] holds -1"),
    ("embeddings", {"input": [1] * 17}, "input has 17 tokens, and the model reads 16: shorten it, or send truncate"),
    ("embeddings", {"input": ["a", "river " * 30]}, "input[1] has"),
    ("embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format='int8' is not one of ['float'"),
    ("embeddings", {"input": "a", "dimensions": 33}, "dimensions=33 is more than the 32 numbers"),
    ("embeddings", {"input": "a", "dimensions": 0}, NUMBER),
    ("embeddings", {"input": "a", "truncate": "END"}, "truncate='END' must be true or false"),
    ("embeddings", {"input": "a", "input_type": "code"}, "input_type='code' is not one of ['query', 'document']"),
    ("embeddings", {"input": "a", "dimension": 8}, "'dimension' is not one of the fields"),
    ("rerank", {"documents": ["a"]}, "query=None must be a text"),
    ("rerank", {"query": "a"}, "documents=None must be a list of at least one text"),
    ("rerank", {"query": "a", "documents": []}, "documents=[] must be"),
    ("rerank", {"query": "a", "documents": ["b", ""]}, "documents[1]='' must be a text"),
    ("rerank", {"query": "a", "documents": [{"title": "b"}]}, "documents[0]=None must be a text"),
    ("rerank", {"query": "a", "documents": ["b"] * 1001}, "documents are 1,001; at most 1,000"),
    ("rerank", {"query": "river " * 16, "documents": ["b"]}, "it leaves no room for a document"),
    ("rerank", {"query": "a", "documents": ["b"], "top_n": 1.5}, NUMBER),
    ("rerank", {"query": "a", "documents": ["b"], "return_documents": 1}, "return_documents=1 must be true or false"),
]


@pytest.mark.parametrize(("route", "body", "message"), BAD_REQUESTS)
def test_wrong_requests_are_answered_with_the_reason(client, route, body, message):
    answer = client.post(f"/v1/{route}", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert message in error["message"] and error["type"] == "invalid_request_error"


def test_other_models_and_texts_without_tokens(client, monkeypatch):
    for route, other in (("embeddings", "rank"), ("rerank", "embed")):
        answer = client.post(
            f"/v1/{route}", json={"model": other, "input": "a"} if route == "embeddings" else {"model": other}
        )
        assert answer.status_code == 404 and f"model={other!r} is not served here" in answer.json()["error"]["message"]
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["embed", "rank"]
    answer = client.post("/v1/completions", json={"prompt": "a"})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "/v1/completions is not served: start with --model FOLDER."
    monkeypatch.setattr("trine.scripts.serving.vector_models.count_tokens", lambda tokenizer, *texts: [0])
    answer = client.post("/v1/embeddings", json={"input": "a"})
    assert answer.status_code == 400 and "input has no token" in answer.json()["error"]["message"]


def test_numbers_that_are_not_finite(client, monkeypatch):
    monkeypatch.setattr(SentenceTransformer, "encode", lambda self, texts, **options: np.full((1, 4), np.nan))
    monkeypatch.setattr(CrossEncoder, "predict", lambda self, *rest, **options: np.array([np.nan]))
    for route, body in (("embeddings", {"input": "a"}), ("rerank", {"query": "a", "documents": ["b"]})):
        answer = client.post(f"/v1/{route}", json=body)
        assert answer.status_code == 400 and "not finite" in answer.json()["error"]["message"]


def test_the_client_of_openai_embeds(client, models):
    asker = openai.OpenAI(base_url="http://testserver/v1", api_key="none", max_retries=0, http_client=client)
    assert [card.id for card in asker.models.list()] == ["embed", "rank"]
    answer = asker.embeddings.create(model="embed", input=TEXTS)
    np.testing.assert_allclose([item.embedding for item in answer.data], models[0].encode(TEXTS), atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="dimensions=64 is more than"):
        asker.embeddings.create(model="embed", input="a", dimensions=64)
    with pytest.raises(openai.NotFoundError, match="only 'embed'"):
        asker.embeddings.create(model="other", input="a")


def test_what_is_not_served(folder, capsys):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = ["--port", str(free.getsockname()[1])]
    for name, message in {
        "rank2": "rerank_model='.*rank2' has num_labels=2; to rank, a pair needs one score",
        "embed": "lacks 2 of the weights of TrineForSequenceClassification",
        "nowhere": "nowhere",
    }.items():
        with pytest.raises(SystemExit, match=f"trine serve: .*{message}"):
            serve.main(["--rerank_model", str(folder / name), "--device", "cpu", *port])
    for option in ("--rerank_model", "--embedding_model"):
        with pytest.raises(SystemExit, match="trine serve: .*='./nothing': there is no such folder"):
            serve.main([option, "./nothing", *port])
    for options, message in {
        (): "Nothing is served: give --model, --embedding_model or --rerank_model",
        ("--embedding_model", "x", "--continuous_batching"): "continuous_batching=True is for a decoder",
    }.items():
        with pytest.raises(SystemExit):
            serve.main([*options])
        assert message in capsys.readouterr().err
