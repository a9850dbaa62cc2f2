"""`trine index` and `trine search`: what they print, and what they refuse."""

import json

import pytest
from support.indexing import run_index, write_records
from support.searches import DOCUMENTS, LONG, save_encoder
from transformers import AutoTokenizer

from trine import TrineConfig, TrineForCausalLM, TrineForMaskedLM, TrineForSequenceClassification
from trine.configuration.atomic_saving import locked
from trine.retrieval import HybridSearch
from trine.scripts import index, search
from trine.scripts.jobs import document_stores
from trine.scripts.jobs.encoders import load_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    save_encoder(folder / "encoder")
    write_records(folder / "docs.jsonl", DOCUMENTS)
    assert run_index(folder, "made", "--model", str(folder / "encoder")) == 0
    return folder


def find(capsys, *argv):
    search.main([*argv, "--device", "cpu"])
    return capsys.readouterr().out


def hits_of(folder, query, k=10, **options):
    encoder = load_encoder(str(folder / "encoder"), "cpu")
    return HybridSearch.load(folder / "made", encoder, **options).search(query, k)


def test_the_command_finds_what_the_class_finds(folder, capsys):
    printed = find(capsys, "a red house", "--index", str(folder / "made"), "-k", "2")
    lines = [line for hit in hits_of(folder, "a red house", 2) for line in (f"{hit.id}  {hit.score:.4f}", hit.text)]
    assert [line.partition(". ")[2] or line.strip() for line in printed.splitlines() if line] == lines
    options = ["--fusion", "rrf", "--dense_weight", "1", "--lexical_weight", "2", "--model", str(folder / "encoder")]
    printed = find(capsys, "--text", "red", "river", "--index", str(folder / "made"), "--json", *options)
    for query, line in zip(("red", "river"), printed.splitlines(), strict=True):
        expected = hits_of(folder, query, fusion="rrf", dense_weight=1, lexical_weight=2)
        found = json.loads(line)
        assert found["query"] == query and [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected]


def test_an_explanation(folder, capsys):
    (hit,) = hits_of(folder, "a red house", 1)
    printed = find(capsys, "a red house", "--index", str(folder / "made"), "-k", "1", "--explain")
    parts = f"{hit.dense_part:.4f} of vectors ({hit.dense:.4f}) + {hit.lexical_part:.4f} of words ({hit.lexical:.4f}"
    assert f"{hit.score:.4f} = {parts} by red, house)" in printed
    assert hit.text.replace("red", "**red**").replace("house", "**house**") in printed
    printed = find(capsys, "zebra", "--index", str(folder / "made"), "--explain", "--json", "-k", "1")
    (record,) = json.loads(printed)["hits"]
    assert record["words"] == [] and record["lexical"] == 0 and record["score"] == record["dense_part"]
    assert "Nothing is found." in find(
        capsys, "zebra", "--index", str(folder / "made"), "--dense_weight", "0", "--lexical_weight", "1"
    )


def test_marks_of_chinese_and_long_texts():
    words = search.Words()
    assert search.marked("红房子", "河边有红房子。", words) == "河边有**红房子**。"
    text = " ".join(["before"] * 100 + ["river"] + ["after"] * 100)
    shown = search.marked("river", text, words)
    assert shown.startswith("…") and "**river** after" in shown and shown.endswith("…") and len(shown) < 300
    assert search.marked("none", "a text", words) == "a text" and len(search.cut("a" * 500)) == search.SHOWN + 1


def test_an_index_in_bfloat16_is_searched_in_float32(folder, capsys):
    """Scores are those of vectors that the model has made in bfloat16, and the index is that of the same model."""
    assert run_index(folder, "rounded", "--model", str(folder / "encoder"), "--dtype", "bfloat16") == 0
    capsys.readouterr()
    document = next(iter(DOCUMENTS))
    where = ["--index", str(folder / "rounded"), "--lexical_weight", "0", "--dense_weight", "1", "--json", "--explain"]
    close, plain = (
        load_encoder(str(folder / "encoder"), "cpu", dtype="bfloat16"),
        load_encoder(str(folder / "encoder")),
    )
    vector = close.encode_document(DOCUMENTS[document])
    for dtype, model in (("auto", plain), ("bfloat16", close)):
        found = json.loads(find(capsys, "a red house", "-k", "36", *where, "--dtype", dtype))["hits"]
        (cosine,) = [hit["dense"] for hit in found if hit["id"] == document]
        assert cosine == pytest.approx(model.similarity(model.encode_query("a red house"), vector).item(), abs=2e-4)
    for command, words in ((index, ["--files", "x", "--output_dir", "y"]), (search, ["red", "--index", "y"])):
        with pytest.raises(SystemExit):
            command.main([*words, "--dtype", "int4"])
        assert "dtype='int4' is not one of ['auto', 'float32', 'bfloat16']" in capsys.readouterr().err


def test_an_index_of_chunks(folder, capsys):
    """Hits name document and characters; what is unchanged stays, and a document is replaced or removed whole."""
    write_records(folder / "long.jsonl", LONG)
    options = ["--model", str(folder / "encoder"), "--late_chunking"]
    assert run_index(folder, "chunks", *options, files="long.jsonl") == 0
    told = capsys.readouterr()
    assert "14 chunks of 4 documents in" in told.out and "4 added, 0 replaced, 0 unchanged" in told.err
    expected = HybridSearch(load_encoder(str(folder / "encoder"), "cpu"), LONG, late_chunking=True)
    hits = expected.search("a red house", 3)
    where = ["--index", str(folder / "chunks"), "-k", "3"]
    found = json.loads(find(capsys, "a red house", *where, "--json"))["hits"]
    named = [(hit["id"], hit["document"], tuple(hit["span"]), hit["text"]) for hit in found]
    assert named == [(hit.id, hit.document, hit.span, hit.text) for hit in hits]
    assert f"1. {hits[0].document}#{hits[0].span[0]}-{hits[0].span[1]}  " in find(capsys, "a red house", *where)
    write_records(folder / "less.jsonl", {"first": "A lamp.\nA red house.", "one": LONG["one"], "new": "a zebra"})
    assert run_index(folder, "chunks", "--remove_missing", files="less.jsonl") == 0
    told = capsys.readouterr()
    assert "1 added, 1 replaced, 1 unchanged, 2 removed" in told.err and "4 chunks of 3 documents in" in told.out
    with pytest.raises(
        SystemExit, match="trine: late_chunking=True, chunk_size=3: the index has chunks with chunk_size"
    ):
        run_index(folder, "chunks", "--late_chunking", "--chunk_tokens", "3", files="less.jsonl")
    for wrong in (["--chunk_tokens", "3"], ["--late_chunking", "--chunk_tokens", "0"]):
        with pytest.raises(SystemExit):
            run_index(folder, "chunks", *wrong)
        assert f"chunk_tokens={wrong[-1]} must be at least 1, and needs late_chunking" in capsys.readouterr().err


def test_a_database_in_place_of_a_folder(folder, tmp_path, capsys):
    pytest.importorskip("milvus_lite")
    store = ["--store", str(tmp_path / "documents.db"), "--store_name", "words"]
    words = ["--files", str(folder / "docs.jsonl"), "--text_field", "words", "--id_field", "name", "--device", "cpu"]
    with pytest.raises(SystemExit, match=r"store='.*documents\.db' is not there. `trine index` makes one"):
        search.main(["red", *store])
    assert not (tmp_path / "documents.db").exists()
    with pytest.raises(SystemExit, match="model: store_name='words' of store='.*documents.db' holds no index yet"):
        index.main([*words, *store])
    with pytest.raises(SystemExit, match="store_name='words': the store has no such index. `trine index` makes one"):
        search.main(["red", *store])
    assert index.main([*words, *store, "--model", str(folder / "encoder"), "--approximate"]) == 0
    assert f"36 documents in 'words' of {store[1]}" in capsys.readouterr().out
    write_records(folder / "fewer.jsonl", dict([*DOCUMENTS.items()][:30]))
    assert index.main([words[0], str(folder / "fewer.jsonl"), *words[2:], *store, "--remove_missing"]) == 0
    assert "0 added, 0 replaced, 30 unchanged, 6 removed" in capsys.readouterr().err
    search.main(["a red house", *store, "-k", "1", "--json", "--device", "cpu"])
    told = capsys.readouterr()
    assert json.loads(told.out)["hits"][0]["id"] == hits_of(folder, "a red house", 1)[0].id
    assert "Loading weights" not in told.err


def test_an_error_of_a_database_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("milvus_lite")
    from pymilvus import MilvusException

    def refuse(*_):
        raise MilvusException(message="no more\nmemory")

    with pytest.raises(ConnectionError, match="store='.*a.db': <MilvusException: .*no more memory"):  # noqa: SIM117
        with document_stores.opened_store(str(tmp_path / "a.db"), "words") as store:
            monkeypatch.setattr(type(store), "__len__", refuse)
            len(store)


def test_weights_of_tokens_by_command(folder, capsys):
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder")
    TrineForMaskedLM(TrineConfig.from_pretrained(folder / "encoder")).save_pretrained(folder / "splade")
    tokenizer.save_pretrained(folder / "splade")
    options = ["--model", str(folder / "encoder"), "--lexical", "sparse"]
    assert run_index(folder, "weights", *options, "--sparse_model", str(folder / "splade")) == 0
    printed = find(capsys, "zebra", "--index", str(folder / "weights"), "-k", "1", "--explain")
    assert "by other tokens)" in printed
    with pytest.raises(SystemExit, match="lexical='bm25' differs from lexical='sparse' of the index"):
        run_index(folder, "weights", "--lexical", "bm25")
    with pytest.raises(SystemExit, match="sparse_model='.*nothing' cannot be read"):
        run_index(folder, "new", *options, "--sparse_model", str(folder / "nothing"))
    with pytest.raises(SystemExit, match="TrineModel has no head for masked tokens"):
        run_index(folder, "other", *options, "--sparse_model", str(folder / "encoder"))


def test_numbers_and_places_as_ids(folder, tmp_path):
    (tmp_path / "docs.jsonl").write_text('{"text": "a red house", "n": 7}\n{"text": "a bird", "n": 8}\n')
    words = ["--files", str(tmp_path / "docs.jsonl"), "--model", str(folder / "encoder"), "--device", "cpu"]
    for options, ids in (([], ["0", "1"]), (["--id_field", "n"], ["7", "8"])):
        output = tmp_path / str(len(options))
        index.main([*words, "--output_dir", str(output), *options])
        assert HybridSearch.load(output, load_encoder(str(folder / "encoder"), "cpu")).store.ids == ids


def test_a_second_indexing_waits(folder, capsys, monkeypatch):
    with locked(folder / "made" / ".indexing") as lock:
        assert lock.take()

        def stop(self, shared=False, wait=False):
            return False if not wait else lock.close() or True

        monkeypatch.setattr(type(lock), "take", stop)
        with index.one_at_a_time(folder / "made"):
            pass
        lock.file = None
    assert "Another trine index works on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ({"a": "x"}, ["--model", "nowhere"], "model='nowhere' cannot be read"),
        ({"a": "x"}, [], "output_dir='.*new' holds no index yet, so name a model"),
        ({"a": " "}, [], "record 1: the field 'words' is empty"),
        ({"": "x"}, [], "record 1: the field 'name' is empty"),
        ({}, [], "hold no documents"),
        ({"a": "x"}, ["--text_field", "other"], "the field 'other' is missing"),
    ],
)
def test_what_indexing_refuses(folder, tmp_path, records, options, message):
    write_records(folder / "bad.jsonl", records)
    with pytest.raises(SystemExit, match=f"(?s)trine: .*{message}"):
        run_index(folder, "new", *options, files="bad.jsonl")
    assert not (folder / "new").exists()


def test_an_id_that_two_records_have(folder):
    (folder / "twice.jsonl").write_text((folder / "docs.jsonl").read_text() * 2)
    message = r"(?s)36 records.*record 37: the field 'name' holds 'red-house', which an earlier record has"
    with pytest.raises(SystemExit, match=message):
        run_index(folder, "new", "--model", str(folder / "encoder"), files="twice.jsonl")


def test_another_model_or_splitting(folder, tmp_path):
    other = save_encoder(tmp_path / "other", seed=1)
    with pytest.raises(SystemExit, match="The index was made by model="):
        run_index(folder, "made", "--model", other)
    with pytest.raises(SystemExit, match="The index was made by model="):
        search.main(["red", "--index", str(folder / "made"), "--model", other])
    with pytest.raises(SystemExit, match="chinese='jieba' differs from chinese='bigrams' of the index"):
        run_index(folder, "made", "--chinese", "jieba")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["red", "--index", "nowhere"], "index='nowhere' is not a folder"),
        (["red", "--fusion", "raw"], "fusion='raw' would add raw scores"),
        (["red", "--dense_weight", "nan"], "dense_weight=nan must be a finite number"),
        ([" "], "query=' ' is an empty text"),
    ],
)
def test_what_searching_refuses(folder, options, message):
    index_option = [] if "--index" in options else ["--index", str(folder / "made")]
    with pytest.raises(SystemExit, match=f"trine: {message}"):
        search.main([*options, *index_option])


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (search, ["red"], "Name either index, a folder, or store, a database"),
        (index, ["--files", "f"], "Name either output_dir, a folder, or store, a database"),
        (index, ["--files", "f", "--output_dir", "o", "--lexical", "x"], "lexical='x' is not one of"),
        (search, ["red", "--index", "i", "-k", "0"], "k=0 must be a whole number of at least 1"),
        (index, ["--files", "f", "--output_dir", "o", "--batch_size", "0"], "batch_size=0 must be at least 1"),
        (index, ["--files", "f", "--output_dir", "o", "--chinese", "words"], "chinese='words' is not one of"),
    ],
)
def test_arguments_that_are_refused(command, options, message, capsys):
    with pytest.raises(SystemExit):
        command.main(options)
    assert message in capsys.readouterr().err


def test_what_is_ranked_again(folder, capsys):
    """By the encoder with a head for a pair, and by a decoder as a list."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder")
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 512}
    for name, model_class, fields in (
        ("pairs", TrineForSequenceClassification, {"is_causal": False, "num_labels": 1}),
        ("lists", TrineForCausalLM, {}),
    ):
        model_class(TrineConfig.from_preset("tiny", **sizes, **fields)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    options = ["--index", str(folder / "made"), "-k", "4", "--rerank_candidates", "9", "--rerank_window", "6"]
    first = {hit.id: hit.score for hit in hits_of(folder, "a red house", 9)}
    for name in ("pairs", "lists"):
        words = ["a red house", *options, "--rerank", str(folder / name), "--rerank_method", "logits"]
        words += ["--rerank_weight", "1"]
        hits = json.loads(find(capsys, *words, "--json", "--explain"))["hits"]
        assert len(hits) == 4 and all(hit["score"] == pytest.approx(first[hit["id"]]) for hit in hits)
        scores = [hit["rerank"] for hit in hits]
        assert scores == sorted(scores, reverse=True) and (name == "pairs" or scores == [1, 1 / 2, 1 / 3, 1 / 4])
        printed = find(capsys, *words, "--explain")
        best = f"1. {hits[0]['id']}  {scores[0]:.4f} of the reranker, before it {hits[0]['score']:.4f} = "
        assert best in printed
        assert f"1. {hits[0]['id']}  {scores[0]:.4f}\n" in find(capsys, *words)
        words += ["--rerank_weight", "0.4"]
        mixed = json.loads(find(capsys, *words, "--json", "--explain"))["hits"]
        assert [hit["mixed"] for hit in mixed] == sorted((hit["mixed"] for hit in mixed), reverse=True)
        low, best = min(first.values()), mixed[0]
        rest = 0.6 * (best["score"] - low) / (max(first.values()) - low)
        assert best["mixed"] == pytest.approx(best["rerank_part"] + rest)
        own = f"{best['rerank_part']:.4f} of the reranker ({best['rerank']:.4f})"
        printed = f"1. {best['id']}  {best['mixed']:.4f} = {own} + {rest:.4f} of the search, {best['score']:.4f} = "
        assert printed in find(capsys, *words, "--explain")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rerank_candidates", "0"], "rerank_candidates=0 must be a whole number of at least 1"),
        (["--rerank_weight", "0"], "rerank_weight=0.0 must be a number above 0 and at most 1"),
        (["--rerank_window", "1"], "rerank_window=1 must be at least 2"),
        (["--rerank_method", "guess"], "rerank_method='guess' is not one of"),
    ],
)
def test_options_of_ranking_again_that_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        search.main(["red", "--index", "made", *options])
    assert message in capsys.readouterr().err


def test_what_ranks_nothing_is_refused(folder):
    with pytest.raises(SystemExit, match=r"trine: rerank='.*encoder' holds TrineModel, which has no score for a pair"):
        search.main(["red", "--index", str(folder / "made"), "--rerank", str(folder / "encoder")])
