"""An index in a folder: the same after loading, whole after a kill, safe from other processes; damage is named."""

import json
import random
import re

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from support import forks
from support.searches import DOCUMENTS, QUERIES, save_encoder, tiny_encoder

from trine.retrieval import EmbeddedStore, HybridSearch


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def saved(model, tmp_path):
    HybridSearch(model, DOCUMENTS, dense_weight=0.6, fusion="z-score", candidates=20).save(tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("exact", [None, False])
def test_an_index_is_the_same_after_loading(model, tmp_path, exact):
    options = {"dense_weight": 0.6, "lexical_weight": 0.2, "fusion": "z-score", "candidates": 20}
    search = HybridSearch(model, DOCUMENTS, store=EmbeddedStore(exact, chinese="jieba"), **options)
    search.save(tmp_path / "new" / "index")
    loaded = HybridSearch.load(tmp_path / "new" / "index", model)
    assert {name: getattr(loaded, name) for name in options} == options
    assert loaded.store.words.chinese == "jieba" and loaded.store.exact == search.store.exact
    assert loaded.search_all(QUERIES) == search.search_all(QUERIES)
    loaded.update({"red-house": "一只猫", "new": "a tree"})
    loaded.save(tmp_path / "new" / "index")
    again = HybridSearch.load(tmp_path / "new" / "index", model)
    assert again.search("a tree", 1)[0].id == "new" and again.store.documents["red-house"] == "一只猫"


def test_an_empty_index(model, tmp_path):
    HybridSearch(model).save(tmp_path)
    assert HybridSearch.load(tmp_path, model).search("red") == []


# Saves two indexes in turn until it is killed, ten times at a random moment, and tells which one was left.
KILLED = """
import os, random, signal, sys, time
import numpy as np
from pathlib import Path
from trine.retrieval.stores.embedded import EmbeddedStore

folder, stores = Path("index"), []
for name in "ab":
    store = EmbeddedStore()
    store.set_encoder({"name": name})
    count = 300 + 100 * (name == "b")
    store.put({f"{name}{n}": f"text {name} {n}" for n in range(count)}, np.full((count, 64), ord(name), np.float32))
    stores.append(store)
begun = time.perf_counter()
for _ in range(2):
    stores[0].save(folder, {})
seconds, generator = (time.perf_counter() - begun) / 2, random.Random(int(sys.argv[1]))
for _ in range(10):
    child = os.fork()
    if not child:
        while True:
            for store in stores:
                store.save(folder, {}, overwrite=True)
    time.sleep(generator.uniform(0.2, 4) * seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left, _ = EmbeddedStore.load(folder)
    name = left.encoder["name"]
    assert {id_[0] for id_ in left.documents} == {name} and set(np.unique(left._vectors)) == {ord(name)}
    assert len(left) == len(left._vectors) == left._bm25.size
    print(name)
stores[1].save(folder, {}, overwrite=True)
assert sorted(path.name[:5] for path in folder.iterdir()) == ["files", "index"]
"""


def test_a_killed_saving_leaves_an_index_that_is_whole(tmp_path):
    result = forks.run(["-c", KILLED, str(random.randrange(1000))], tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) == 10 and {*result.stdout.split()} <= {"a", "b"}


def test_a_saving_that_fails_leaves_the_index(saved, model, monkeypatch):
    before = HybridSearch.load(saved, model).search("red")
    search = HybridSearch.load(saved, model)
    search.add({"new": "a tree"})

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("trine.retrieval.stores.embedded.write_documents", fail)
    with pytest.raises(OSError, match="the disk is full"):
        search.save(saved)
    assert HybridSearch.load(saved, model).search("red") == before and len([*saved.iterdir()]) == 2


def test_a_second_writer_loses_nothing(saved, model):
    first, second = HybridSearch.load(saved, model), HybridSearch.load(saved, model)
    first.add({"first": "a tree"})
    first.save(saved)
    second.add({"second": "a tent"})
    with pytest.raises(ValueError, match="was saved by another process since it was loaded here"):
        second.save(saved)
    again = HybridSearch.load(saved, model)
    again.add({"second": "a tent"})
    again.save(saved)
    again.save(saved)
    assert {"first", "second"} <= {*HybridSearch.load(saved, model).store.documents}


def test_an_index_that_was_not_loaded_is_not_replaced(saved, model):
    other = HybridSearch(model, {"other": "a tent"})
    with pytest.raises(ValueError, match="holds another index, which was not loaded here.*overwrite=True"):
        other.save(saved)
    assert len(HybridSearch.load(saved, model)) == len(DOCUMENTS)
    other.save(saved, overwrite=True)
    assert HybridSearch.load(saved, model).ids == ["other"]


def test_another_model_is_refused(saved, model, tmp_path):
    other = tiny_encoder(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"was made by model='.*'. That is not model='.*other', which has weights '"):
        HybridSearch.load(saved, other)
    same = SentenceTransformer(model.transformers_model.config._name_or_path, device="cpu")
    assert HybridSearch.load(saved, same).search("red") == HybridSearch.load(saved, model).search("red")
    same.add_module("1", Pooling(same.get_embedding_dimension(), "cls"))
    with pytest.raises(ValueError, match="which has the same weights, but other vectors: pooling, prompts or tokeniz"):
        HybridSearch.load(saved, same)
    same.similarity_fn_name = "dot"
    with pytest.raises(ValueError, match="which has similarity 'dot' instead of 'cosine'"):
        HybridSearch.load(saved, same)


def test_a_store_of_another_model_is_refused(model, tmp_path):
    store = HybridSearch(model, DOCUMENTS).store
    with pytest.raises(ValueError, match="The index was made by model="):
        HybridSearch(tiny_encoder(tmp_path, seed=1), store=store)


def files_of(folder):
    return next(folder.glob("files-*"))


def change(folder, **fields):
    content = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(content | fields))


def shorter(folder, name):
    """Cuts a file off, and lets `index.json` say so, too."""
    path = files_of(folder) / name
    path.write_bytes(path.read_bytes()[:-40])
    sizes = json.loads((folder / "index.json").read_text())["files"]
    change(folder, files={**sizes, name: path.stat().st_size})


DAMAGES = {
    "no index.json": (lambda f: (f / "index.json").unlink(), FileNotFoundError, "holds no index.json"),
    "no JSON": (lambda f: (f / "index.json").write_text("{"), ValueError, "is damaged: index.json cannot be read"),
    "a list": (lambda f: (f / "index.json").write_text("[]"), ValueError, "is damaged: index.json cannot be read"),
    "version": (lambda f: change(f, format=9), ValueError, "has format=9; this version of trine reads format=1"),
    "file gone": (lambda f: (files_of(f) / "vocabulary.json").unlink(), ValueError, "vocabulary.json is missing"),
    "cut": (lambda f: (files_of(f) / "documents.jsonl").write_text("{}"), ValueError, "has 2 bytes and had 2,"),
    "documents": (lambda f: shorter(f, "documents.jsonl"), ValueError, "is damaged: JSONDecodeError"),
    "arrays": (lambda f: shorter(f, "arrays.safetensors"), ValueError, "is damaged: SafetensorError"),
    "settings": (lambda f: change(f, settings={}), ValueError, "is damaged: KeyError"),
    "words": (
        lambda f: change(f, settings={"exact": None, "chinese": "bigrams", "encoder": None}),
        ValueError,
        r"is damaged: its settings lack \['dense_weight', 'lexical_weight', 'fusion', 'candidates'\]",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(saved, model, name):
    damage, error, message = DAMAGES[name]
    damage(saved)
    with pytest.raises(error, match=rf"index='{re.escape(str(saved))}' .*{message}"):
        HybridSearch.load(saved, model)


def test_vectors_that_do_not_belong_to_the_documents(saved, model):
    path = files_of(saved) / "documents.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[:-1]]))
    sizes = json.loads((saved / "index.json").read_text())["files"]
    change(saved, files={**sizes, "documents.jsonl": path.stat().st_size})
    with pytest.raises(ValueError, match="is damaged: ValueError: 36 vectors for 35 documents"):
        HybridSearch.load(saved, model)


def test_no_folder(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="index='.*none' is not a folder. `trine index` makes one"):
        HybridSearch.load(tmp_path / "none", model)


def test_the_arrays_are_no_pickle(saved):
    assert {path.suffix for path in files_of(saved).iterdir()} == {".json", ".jsonl", ".safetensors"}
    assert np.isfinite(EmbeddedStore.load(saved)[0]._vectors).all()


def test_the_name_of_the_model_is_kept(saved, tmp_path):
    path = save_encoder(tmp_path / "named")
    search = HybridSearch(SentenceTransformer(path, device="cpu"))
    assert search.store.encoder and search.store.encoder["name"] == path
