"""Answers that are certain are kept: exactly those, by all that they depend on, within a bound, also after a crash."""

import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.searches import DOCUMENTS, save_classifier, save_encoder
from support.served import MESSAGES, ask_all, make_tokenizer, make_watched
from support.tiny import tiny_model

from trine.scripts.jobs.encoders import load_cross_encoder, load_encoder


pytest.importorskip("fastapi")

PATH = "/v1/completions"
GREEDY = {"prompt": "the line", "temperature": 0.0, "max_tokens": 6}
SAMPLED = {"prompt": "the line", "max_tokens": 6}
HEADER = "x-trine-cache"
TEXTS = [*DOCUMENTS.values()][:6]


@pytest.fixture(scope="module")
def decoder():
    tokenizer = make_tokenizer()
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 512}
    model = tiny_model(dtype=torch.float32, attn="sdpa", eos_token_id=None, num_hidden_layers=1, **size)
    model.generation_config.do_sample = True
    model.generation_config.pad_token_id = 0
    return model, tokenizer


def make_cache(*rest, **options):
    from trine.scripts.serving.response_cache import ResponseCache

    return ResponseCache(*rest, **options)


COLD = '{"do_sample": true, "temperature": 0.0}'  # which `generate` refuses


def test_certain_answers_come_again(decoder):
    reads = []
    handle = decoder[0].register_forward_pre_hook(lambda *_: reads.append(1))
    app, state = make_watched(*decoder, responses=make_cache(10**6))
    chat = {"messages": MESSAGES, "temperature": 0.0, "max_tokens": 6}
    for path, body in (
        (PATH, GREEDY),
        (PATH, {**SAMPLED, "seed": 1}),
        (PATH, {**GREEDY, "stream": True}),
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "stream": True}),
        ("/v1/responses", {"input": "the line", "temperature": 0.0, "max_output_tokens": 6}),
        ("/v1/responses", {"input": "the line", "temperature": 0.0, "max_output_tokens": 6, "stream": True}),
    ):
        (first,) = ask_all(app, [(path, body)])
        count = len(reads)
        (again,) = ask_all(app, [(path, {**body, "user": "another", "model": "mine"})])
        assert (first.headers[HEADER], again.headers[HEADER]) == ("miss", "hit")
        assert first.status_code == again.status_code == 200 and len(reads) == count
        if body.get("stream"):
            assert first.headers["content-type"] == again.headers["content-type"]
            assert len(first.text.split("data: ")) == len(again.text.split("data: "))
            continue
        one, two = first.json(), again.json()
        assert one.pop("id") != two.pop("id")
        details = two["usage"].pop("prompt_tokens_details", None) or two["usage"].pop("input_tokens_details")
        one["usage"].pop("input_tokens_details", None)
        assert details["cached_tokens"] == (two["usage"].get("prompt_tokens") or two["usage"]["input_tokens"])
        assert str(one).replace(first.json()["id"].removeprefix("resp_"), "") == str(two).replace(
            again.json()["id"].removeprefix("resp_"), ""
        )
    assert 'trine_cache_requests_total{cache="response",result="hit"} 7.0' in state.metrics.write().decode()
    handle.remove()


def test_what_an_answer_depends_on(decoder):
    cache = make_cache(10**6)
    app, _ = make_watched(*decoder, responses=cache)
    seeded = {**SAMPLED, "seed": 1}
    different = [GREEDY, seeded, {**seeded, "seed": 2}, {**seeded, "top_p": 0.5}, {**GREEDY, "max_tokens": 5}]
    different += [{**GREEDY, "prompt": "the lines"}, {**GREEDY, "stop": "x"}, {**GREEDY, "stream": True}]
    for answer in [ask_all(app, [(PATH, body)])[0] for body in different]:
        assert answer.status_code == 200 and answer.headers[HEADER] == "miss"
    assert len(cache) == len(different)
    for body in (SAMPLED, {**SAMPLED, "generation_config": '{"do_sample": true, "max_new_tokens": 4}'}):
        answers = [ask_all(app, [(PATH, body)])[0] for _ in range(2)]
        assert HEADER not in answers[0].headers and HEADER not in answers[1].headers
    for body in ({**GREEDY, "prompt": ""}, {**SAMPLED, "generation_config": COLD, "stream": True, "seed": 1}):
        ask_all(app, [(PATH, body)] * 2)
    assert len(cache) == len(different)  # no error is kept
    (cleared,) = ask_all(app, [("/cache/clear", {})])
    assert cleared.json() == {"cleared": ["response"]} and len(cache) == 0
    assert ask_all(app, [(PATH, GREEDY)])[0].headers[HEADER] == "miss"


def test_another_model_has_other_answers(decoder):
    from trine.scripts.serving.identity import identify_decoder

    model, tokenizer = decoder
    first = identify_decoder(model, tokenizer)
    assert identify_decoder(model, make_tokenizer()) == first
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    assert identify_decoder(model, tokenizer) != first
    with torch.no_grad():
        model.lm_head.weight[0, 0] -= 1
    model.generation_config.top_k = 7
    assert identify_decoder(model, tokenizer) != first
    model.generation_config.top_k = None
    other = make_tokenizer()
    other.chat_template = "{{ messages[0].content }}"
    assert identify_decoder(model, other) != first


def test_the_memory_has_a_bound():
    cache = make_cache(10_000)
    for number in range(1000):
        cache.put({str(number).encode(): b"x" * (number % 300)})
        cache.get([b"0"])
        assert cache.bytes <= 10_000
    assert cache.get([b"0", b"5", b"999"]) == [b"", None, b"x" * 99]  # what is asked for stays
    cache.put({b"large": b"x" * 20_000})
    assert cache.get([b"large"]) == [None] and cache.clear() > 20 and cache.bytes == len(cache) == 0


WRITER = """
import os, sys
from trine.scripts.serving.response_cache import ResponseCache
cache, number = ResponseCache(10**8, folder=sys.argv[1]), 0
print("ready", flush=True)
while True:
    cache.put({f"{number}.{part}".encode(): bytes([number % 251]) * 3000 for part in range(3)})
    number += 1
"""


def test_a_file_outlives_a_killed_server(tmp_path):
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(timeout=0.5)
        writer.kill()
        writer.wait()
        writer.stdout.close()
        cache = make_cache(10**8, folder=tmp_path)
        rows = cache._data.execute("SELECT key, value FROM answers").fetchall()
        numbers: dict[bytes, int] = {}
        for key, value in rows:
            number, _, _ = key.partition(b".")
            assert value == bytes([int(number) % 251]) * 3000
            numbers[number] = numbers.get(number, 0) + 1
        assert len(numbers) > 10 and {*numbers.values()} == {3}  # each of them whole
        assert cache._data.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert cache.bytes == sum(len(value) + 128 for _, value in rows)
        cache.close()


def test_files_that_cannot_be_used(tmp_path, caplog):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "responses.sqlite").write_bytes(b"no table" * 999)
    with pytest.raises(OSError, match="responses.sqlite' cannot be used: .*Remove it"):
        make_cache(10, folder=tmp_path / "bad")
    cache = make_cache(10_000, folder=tmp_path / "later")
    cache._data.execute("PRAGMA user_version=9")
    cache.close()
    with pytest.raises(OSError, match="written by version 9 of this cache, which reads 1"):
        make_cache(10_000, folder=tmp_path / "later")
    cache = make_cache(10_000)
    cache._data.execute("DROP TABLE answers")
    cache.put({b"a": b"b"})
    assert cache.get([b"a", b"c"]) == [None, None]
    with pytest.raises(sqlite3.Error):
        cache.clear()


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    save_encoder(folder / "embed")
    save_classifier(folder / "rank", 1)
    return load_encoder(str(folder / "embed"), "cpu"), load_cross_encoder(str(folder / "rank"), "cpu")


def serve_vectors(vectors, responses=None, **limits):
    from trine.scripts.serving.app import make_app
    from trine.scripts.serving.limits import Limits
    from trine.scripts.serving.managers import OneModel
    from trine.scripts.serving.metrics import Metrics
    from trine.scripts.serving.vector_models import EmbeddingModel, RerankModel
    from trine.scripts.serving.watch import Watch

    metrics, limits_ = Metrics(), Limits(**limits)
    if responses is not None:
        responses.metrics = metrics
    embed = EmbeddingModel("embed", vectors[0], limits_, metrics, responses, "embed")
    rank = RerankModel("rank", vectors[1], limits_, metrics, responses, "rank")
    watch = Watch(metrics)
    watch.app = make_app([embed, rank], OneModel(metrics=metrics))
    return watch, metrics


def embedding(answer):
    assert answer.status_code == 200, answer.text
    return np.array([each["embedding"] for each in answer.json()["data"]], dtype=np.float32)


def test_requests_of_several_clients_share_a_pass(vectors):
    app, metrics = serve_vectors(vectors, batch_requests=64, batch_wait=0.3)
    asked = [("/v1/embeddings", {"input": TEXTS[n % 6 : n % 6 + 1 + n % 3]}) for n in range(20)]
    asked += [("/v1/rerank", {"query": f"river {n}", "documents": TEXTS[: 1 + n]}) for n in range(5)]
    asked += [("/v1/embeddings", {"input": [[5, 6, 7], [8]]}), ("/v1/embeddings", {"input": ""})]
    answers = ask_all(app, asked)
    for (path, body), answer in zip(asked[:20], answers, strict=False):
        assert path == "/v1/embeddings"
        np.testing.assert_allclose(embedding(answer), vectors[0].encode(body["input"]), atol=1e-6)
    for (_, body), answer in zip(asked[20:25], answers[20:25], strict=True):
        expected = vectors[1].rank(body["query"], body["documents"])
        assert [each["index"] for each in answer.json()["results"]] == [each["corpus_id"] for each in expected]
        scores = [each["relevance_score"] for each in answer.json()["results"]]
        assert scores == pytest.approx([each["score"] for each in expected], abs=1e-6)
    assert embedding(answers[25]).shape == (2, 32) and answers[26].status_code == 400
    figures = metrics.write().decode()
    assert 'trine_batch_size_count{kind="embeddings"} 2.0' in figures  # texts, and token ids
    assert 'trine_batch_size_count{kind="rerank"} 1.0' in figures


def test_one_bad_text_is_its_own(vectors, monkeypatch):
    from trine.scripts.serving.vector_models import EmbeddingModel

    compute = EmbeddingModel.compute

    def fail(self, group, items):
        if "bad" in items:
            raise RuntimeError("cannot be read")
        return compute(self, group, items)

    monkeypatch.setattr(EmbeddingModel, "compute", fail)
    app, _ = serve_vectors(vectors, batch_wait=0.2)
    answers = ask_all(app, [("/v1/embeddings", {"input": text}) for text in ("good", "bad", "fine")])
    assert [answer.status_code for answer in answers] == [200, 500, 200]


def test_vectors_have_limits(vectors, monkeypatch):
    import time

    from trine.scripts.serving.vector_models import EmbeddingModel

    def slow(self, group, items):
        time.sleep(0.3)
        return np.zeros((len(items), 32), dtype=np.float32)

    monkeypatch.setattr(EmbeddingModel, "compute", slow)
    body = {"input": "a"}
    app, _ = serve_vectors(vectors, batch_requests=1, max_queue=1, batch_wait=0.0)
    answers = ask_all(app, [("/v1/embeddings", body)] * 4, spread=0.03)
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    app, _ = serve_vectors(vectors, timeout=0.1)
    (answer,) = ask_all(app, [("/v1/embeddings", body)])
    assert answer.status_code == 504
    app, _ = serve_vectors(vectors, max_tokens=5)
    for path, long in (
        ("/v1/embeddings", {"input": TEXTS}),
        ("/v1/rerank", {"query": "river", "documents": TEXTS}),
    ):
        (answer,) = ask_all(app, [(path, long)])
        assert answer.status_code == 400 and "max_tokens_per_request=5" in answer.json()["error"]["message"]


def test_texts_and_pairs_that_are_known(vectors):
    app, metrics = serve_vectors(vectors, make_cache(10**6))
    first, part, again = (ask_all(app, [("/v1/embeddings", {"input": t})])[0] for t in (TEXTS[:2], TEXTS, TEXTS))
    assert [each.headers[HEADER] for each in (first, part, again)] == ["miss", "partial", "hit"]
    np.testing.assert_allclose(embedding(again), vectors[0].encode(TEXTS), atol=1e-6)
    assert (embedding(again) == embedding(part)).all() and again.json()["usage"] == part.json()["usage"]
    (cut,) = ask_all(app, [("/v1/embeddings", {"input": TEXTS, "dimensions": 8})])
    assert cut.headers[HEADER] == "hit" and (embedding(cut) == embedding(part)[:, :8]).all()
    ids = vectors[0].tokenizer(TEXTS[0])["input_ids"]
    for other in ({"input": TEXTS[0], "input_type": "query"}, {"input": ids}, {"input": TEXTS[0] + " "}):
        assert ask_all(app, [("/v1/embeddings", other)])[0].headers[HEADER] == "miss"
    ranked = [
        ask_all(app, [("/v1/rerank", {"query": "river", "documents": documents})])[0]
        for documents in (TEXTS[:2], TEXTS, TEXTS[::-1])
    ]
    assert [each.headers[HEADER] for each in ranked] == ["miss", "partial", "hit"]
    best = [each["index"] for each in ranked[1].json()["results"]]
    assert [5 - each["index"] for each in ranked[2].json()["results"]] == best
    assert 'trine_cache_requests_total{cache="response",result="hit"} 22.0' in metrics.write().decode()


def test_models_of_vectors_are_told_apart(vectors):
    from trine.scripts.serving.identity import identify_vectors

    first, other = (identify_vectors(model) for model in vectors)
    assert first != other and identify_vectors(vectors[0]) == first
    assert identify_vectors(vectors[0], "bfloat16") not in (first, other)
    vectors[0].max_seq_length, length = 9, vectors[0].max_seq_length
    assert identify_vectors(vectors[0]) != first
    vectors[0].max_seq_length = length
