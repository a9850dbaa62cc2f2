"""The store in Milvus, by milvus-lite, finds what the embedded one finds; and what neither can is refused by name."""

import socket
import sys
from collections import Counter

import numpy as np
import pytest
from support.searches import DOCUMENTS, assert_holds_chunks, assert_same_hits, tiny_encoder

from trine.retrieval import EmbeddedStore, HybridSearch, MilvusStore, PostgresStore, open_store
from trine.retrieval.stores import milvus, milvus_rows
from trine.retrieval.stores.passwords import hide_password, without_password


pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
CHINESE = {"猫": "树上有一只猫", "鸟": "树上有两只鸟，一只是黑鸟", "'a\"\\\n": "of the and"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(tmp_path_factory.mktemp("milvus") / "documents.db")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("exact", [True, False])
def test_it_finds_what_the_embedded_store_finds(model, file, exact, monkeypatch):
    ours = HybridSearch(model, store=MilvusStore(file, f"same_{exact}", exact=exact))
    theirs = HybridSearch(model, store=EmbeddedStore(exact=exact))
    assert ours.search("red") == [] and len(ours) == 0 and ours.store.ids == []
    for each in (ours, theirs):
        each.candidates = 12
        each.add({**DOCUMENTS, **CHINESE})
    assert_same_hits(ours, theirs)
    for each in (ours, theirs):
        each.remove([*DOCUMENTS][4:9])
        assert each.update({"red-house": "a zebra", "red-horse": DOCUMENTS["red-horse"], "new": "a tree"}) == (1, 1, 1)
    assert ours.store.ids == theirs.store.ids and len(ours) == len(theirs) == 35
    assert_same_hits(ours, theirs)
    monkeypatch.setattr(ours.store, "is_file", False)  # a server counts documents by an index
    assert_same_hits(ours, theirs)


def test_it_holds_chunks(model, file):
    assert_holds_chunks(model, MilvusStore(file, "chunks"))


def test_a_second_store_sees_the_same(model, file):
    first = MilvusStore(file, "two", exact=False, chinese="jieba")
    second = MilvusStore(file, "two")  # both before there is a collection
    search = HybridSearch(model, {"red": DOCUMENTS["red-house"]}, store=first)
    HybridSearch(model, store=second).add(DOCUMENTS)
    third = open_store(file, "two")
    assert not third.exact and third.words.chinese == "jieba" and len(search) == len(third) == 37
    first._known = None  # one process holds the file, and here two stores
    assert HybridSearch.load(third, model).search("a red house") == search.search("a red house")
    with pytest.raises(ValueError, match="exact=True differs from False, which collection='two' has"):
        MilvusStore(file, "two", exact=True)
    with pytest.raises(ValueError, match="save: store=MilvusStore keeps its documents by itself"):
        search.save("nowhere")


def test_another_model_is_refused_also_if_both_begin(model, file, tmp_path):
    other = HybridSearch(tiny_encoder(tmp_path, seed=1), store=MilvusStore(file, "begun"))
    HybridSearch(model, DOCUMENTS, store=MilvusStore(file, "begun"))
    with pytest.raises(ValueError, match="The index was made by model="):
        other.add({"a": "x"})
    with pytest.raises(ValueError, match="The index was made by model="):
        HybridSearch(tiny_encoder(tmp_path, seed=1), store=MilvusStore(file, "begun"))


def test_many_documents_are_sent_in_parts(file, monkeypatch):
    monkeypatch.setattr(milvus, "BATCH", 3)
    monkeypatch.setattr(milvus, "SCAN", 2)
    store = MilvusStore(file, "parts")
    store.set_encoder({"name": "", "dimension": 4, "similarity": "dot", "weights": "", "probe": [1.0]})
    store.put({str(number): f"text {number}" for number in range(8)}, np.eye(8, 4, dtype=np.float32))
    store.remove(["1", "2", "7"])
    assert store.ids == ["0", "3", "4", "5", "6"] and store.texts(["6", "7", "3"]) == {"3": "text 3", "6": "text 6"}


def test_what_a_server_gets(model, file, monkeypatch):
    """Shards, replicas and an index of words, which milvus-lite does not have, by the calls that are made."""
    store, calls, described = MilvusStore(file, "server"), {}, {"description": ""}
    store.is_file, store.shards, store.replicas = False, 3, 2

    def keep(name):
        return lambda *given, **named: calls.update({name: (given, named)})

    def create(_, schema, **named):
        described.update(schema.to_dict())
        calls["create_collection"] = named

    for name in ("create_index", "load_collection", "upsert"):
        monkeypatch.setattr(store.client, name, keep(name))
    monkeypatch.setattr(store.client, "create_collection", create)
    monkeypatch.setattr(store.client, "describe_collection", lambda _: described)
    HybridSearch(model, {"a": "a red house"}, store=store)
    assert calls["create_collection"] == {"num_shards": 3, "consistency_level": "Strong"}
    assert calls["load_collection"][1] == {"replica_number": 2}
    assert {index.field_name: index.index_type for index in calls["create_index"][0][1]} == {
        "vector": "FLAT",
        "tokens": "SPARSE_INVERTED_INDEX",
        "words": "INVERTED",
    }


def test_what_is_refused(model, file, tmp_path, monkeypatch):
    for name in ('a"b', "", "1a", "a" * 51):
        with pytest.raises(ValueError, match="collection=.* must be at most 50 letters, digits and underscores"):
            MilvusStore(file, name)
    for name in ("shards", "replicas"):
        with pytest.raises(ValueError, match=f"{name}=2: milvus-lite, which keeps '.*', has one; they need a server"):
            MilvusStore(file, **{name: 2})
        with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
            MilvusStore("http://localhost:1", **{name: 0})
    for bad in (str(tmp_path / "documents"), str(tmp_path / "none" / "a.db")):
        with pytest.raises(ValueError, match="must be a file whose name ends with .db, in a folder that is there"):
            MilvusStore(bad)
    full = HybridSearch(model, DOCUMENTS, store=MilvusStore(file, "full"))
    with pytest.raises(ValueError, match=r"documents\['long'\]: the text has 80,000 bytes; Milvus keeps up to 65,535"):
        full.add({"a": "x", "long": "long " * 16_000})
    many = " ".join(f"w{number}" for number in range(4_097))
    with pytest.raises(ValueError, match=r"documents\['many'\] has 4,097 different words; Milvus keeps up to 4,096"):
        full.add({"many": many})
    assert len(full) == len(DOCUMENTS)
    with pytest.raises(ValueError, match="candidates or k is 20,000; a search of Milvus gives up to 16,384 documents"):
        full.store.candidates(None, ["red"], 20_000)
    full.store.client.create_collection("others", dimension=4)
    with pytest.raises(ValueError, match="collection='others' was not made by MilvusStore. Choose another name"):
        MilvusStore(file, "others")
    for module, message in (("pymilvus", "pymilvus and milvus-lite"), ("milvus_lite", "pymilvus and milvus-lite")):
        with (
            monkeypatch.context() as patch,
            pytest.raises(ImportError, match=rf"{message}: pip install 'trine\[milvus"),
        ):
            patch.setitem(sys.modules, module, None)
            MilvusStore(file)


def test_a_server_that_is_not_there(monkeypatch):
    def refuse(**_):
        from pymilvus import MilvusException

        raise MilvusException(message="user:secret is wrong at http://user:secret@host")

    monkeypatch.setattr("pymilvus.MilvusClient", refuse)
    with pytest.raises(ConnectionError, match=r"'http://user:\*\*\*@host' cannot be used. (?!.*secret)"):
        MilvusStore("http://user:secret@host")
    with pytest.raises(ConnectionError, match="cannot be used. (?!.*secret)"):
        MilvusStore("http://host", token="user:secret")


def test_addresses():
    assert without_password("postgresql://me:p@ss:w/d@host/name") == "postgresql://me:***@host/name"
    assert (
        without_password("postgresql://me@host/name?password=secret&x=1")
        == "postgresql://me@host/name?password=***&x=1"
    )
    assert without_password("documents.db") == "documents.db"
    assert hide_password("no p@ss here", "http://a:p@ss@b") == "no *** here"
    with pytest.raises(ValueError, match=r"store='ftp://a:\*\*\*@c' is not postgresql://USER@HOST/DATABASE, http://"):
        open_store("ftp://a:b@c")
    with socket.socket() as free, pytest.raises(ConnectionError, match="PostgresStore: the database cannot be used"):
        free.bind(("127.0.0.1", 0))
        open_store(f"postgresql://me@127.0.0.1:{free.getsockname()[1]}/name")
    assert issubclass(PostgresStore, milvus.Store)


def test_a_sum_of_lengths_by_counting():
    rows = [milvus_rows.as_row("a", "", Counter({7: length}), 0) for length in (0, 1, 6, 300)]
    total = sum(sum(milvus_rows.LENGTHS + bit in row["words"] for row in rows) << bit for bit in range(16))
    assert total == 307
