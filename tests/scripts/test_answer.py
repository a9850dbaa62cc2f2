"""`trine answer`: the prompt that a model reads, what it answers, and what is refused."""

import json
from types import SimpleNamespace

import pytest
import torch
from sentence_transformers import CrossEncoder
from support.searches import DOCUMENTS, save_classifier, save_encoder, tiny_encoder
from support.served import make_tokenizer, save
from support.tokenizer_texts import TEXTS
from transformers import PreTrainedConfig

from trine import train_byte_level_bpe
from trine.retrieval import HybridSearch, cited_numbers, load_reranker, prompt_with_sources
from trine.retrieval.hits import Hit
from trine.retrieval.sources import INSTRUCTION
from trine.scripts import answer


QUESTION = "where is the red house?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index, and decoders with and without a chat template."""
    folder = tmp_path_factory.mktemp("answers")
    HybridSearch(tiny_encoder(folder / "encoder"), DOCUMENTS).save(folder / "index")
    save(folder / "chat", make_tokenizer())
    save(folder / "plain", train_byte_level_bpe(TEXTS, 420, show_progress=False))
    return folder


def load(folder, name):
    words = ["--index", str(folder / "index"), "--model", str(folder / name), "--device", "cpu"]
    return answer.load(answer.parse_arguments([answer.AnswerArguments], words, command="answer", description=None)[0])


def ask(folder, name, *options):
    words = [QUESTION, "--index", str(folder / "index"), "--model", str(folder / name), "--device", "cpu"]
    answer.main([*words, "--max_new_tokens", "12", *options])


def hits_of(folder, k):
    return HybridSearch.load(folder / "index", lambda name: tiny_encoder(folder / "encoder")).search(QUESTION, k)


@pytest.mark.parametrize("name", ["chat", "plain"])
def test_the_answer_is_what_the_model_generates(folder, name, capsys):
    model, tokenizer = load(folder, name)
    hits = hits_of(folder, 2)
    body = f"{INSTRUCTION}\n\n[1] {hits[0].text}\n\n[2] {hits[1].text}\n\nQuestion: {QUESTION}"
    messages = [{"role": "user", "content": body}]
    if name == "chat":
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    else:
        ids = tokenizer(f"{body}\nAnswer:", return_tensors="pt")["input_ids"]
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    expected = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()
    capsys.readouterr()
    ask(folder, name, "-k", "2", "--json")
    record = json.loads(capsys.readouterr().out)
    assert record["question"] == QUESTION and record["answer"] == expected != ""
    assert [source["number"] for source in record["sources"]] == [1, 2]
    assert [(source["id"], source["text"]) for source in record["sources"]] == [(hit.id, hit.text) for hit in hits]
    ask(folder, name, "-k", "2")
    told = capsys.readouterr().out
    assert told.startswith(expected[:5]) and f"[2] {hits[1].id}  {hits[1].score:.4f}  {hits[1].text}" in told
    assert "Sources, none of which the answer cites:" in told


def test_citations_are_told_by_number(folder, capsys, monkeypatch):
    assert cited_numbers("It is red [2], by the river [1][2], see [12] and [x] [0].") == [2, 1, 12, 0]
    monkeypatch.setattr(answer, "write", lambda *rest: "By the river [2], not [7].")
    ask(folder, "chat", "-k", "2")
    told = capsys.readouterr().out
    assert "Sources (* cited):\n [1] " in told and "\n*[2] " in told
    assert told.endswith("The answer also cites [7], which are no sources.\n")
    ask(folder, "chat", "-k", "2", "--json")
    record = json.loads(capsys.readouterr().out)
    assert [source["cited"] for source in record["sources"]] == [False, True]
    assert record["unknown_citations"] == [7]


def test_as_many_sources_as_fit():
    tokenizer = make_tokenizer()
    texts = ["One bird. Two birds sit there. A third.", "A red house. It is by the river.", "no end " * 40]
    hits = [Hit(str(n), text, 1.0, 1.0, 0.0, 0.5, 0.0) for n, text in enumerate(texts)]

    def length(*parts):
        listed = "\n\n".join(f"[{n}] {part}" for n, part in enumerate(parts, 1))
        return len(prompt_ids(f"Say.\n\n{listed}\n\nQuestion: Who?"))

    def prompt_ids(text):
        messages = [{"role": "user", "content": text}]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]

    for shown, is_cut in [
        (("One",), True),
        (("One bird.",), True),
        (("One bird. Two birds sit there.",), True),
        ((texts[0],), False),
        ((texts[0], "A red house."), True),
        (tuple(texts[:2]), False),
    ]:
        found = prompt_with_sources(tokenizer, "Who?", hits[:2], length(*shown), "Say.")
        assert len(found.token_ids) == length(*shown) and found.is_cut == is_cut
        assert found.text.count("[") == len(shown) == len(found.sources) and shown[-1] in found.text
        assert found.token_ids == tokenizer(found.text, add_special_tokens=False)["input_ids"]
    whole = prompt_with_sources(tokenizer, "Who?", hits, 5000, "Say.")
    assert whole.sources == hits and not whole.is_cut
    short = prompt_with_sources(tokenizer, "Who?", hits, length(*texts[:2]) + 20, "Say.")
    assert len(short.sources) == 2 and not short.is_cut  # a later source is not cut within a sentence
    with pytest.raises(ValueError, match=r"max_tokens=\d+ has no room for a source: question and instruction take"):
        prompt_with_sources(tokenizer, "Who?", hits, length("One") - 1, "Say.")
    with pytest.raises(ValueError, match=r"hits=\[\] hold no source"):
        prompt_with_sources(tokenizer, "Who?", [], 500)
    with pytest.raises(ValueError, match="question=' ' is an empty text"):
        prompt_with_sources(tokenizer, " ", hits, 500)
    tokenizer.chat_template = "{{ raise_exception('no users') }}"
    with pytest.raises(ValueError, match="The chat template refuses the message: TemplateError: no users"):
        prompt_with_sources(tokenizer, "Who?", hits, 500)


def test_sources_in_the_order_of_a_reranker(folder, capsys):
    save_classifier(folder / "cross")
    found = hits_of(folder, 6)
    best = CrossEncoder(str(folder / "cross"), device="cpu").rank(QUESTION, [hit.text for hit in found])
    words = ["--rerank", str(folder / "cross"), "--rerank_candidates", "6", "--json", "--rerank_weight", "1"]
    ask(folder, "chat", "-k", "3", *words)
    sources = json.loads(capsys.readouterr().out)["sources"]
    assert [source["id"] for source in sources] == [found[each["corpus_id"]].id for each in best[:3]]
    assert [source["id"] for source in sources] != [hit.id for hit in found[:3]]
    reranker = load_reranker(str(folder / "cross"), "cpu")
    search = HybridSearch.load(folder / "index", lambda name: tiny_encoder(folder / "encoder"))
    mixed = search.search(QUESTION, 3, rerank=reranker, rerank_candidates=6, rerank_weight=0.2)
    words = ["--rerank", str(folder / "cross"), "--rerank_candidates", "6", "--rerank_weight", "0.2"]
    ask(folder, "chat", "-k", "3", *words, "--json")
    sources = json.loads(capsys.readouterr().out)["sources"]
    assert [source["id"] for source in sources] == [hit.id for hit in mixed]


def test_what_is_left_out_is_told(folder, capsys):
    ask(folder, "chat", "-k", "5", "--max_length", "190")
    told = capsys.readouterr()
    assert " of 5 sources fit into 178 tokens" in told.err and "[5]" not in told.out


def test_nothing_that_is_near(folder, tmp_path, capsys):
    dense = {hit.id: hit.dense for hit in hits_of(folder, 36)}
    least = sorted(dense.values())[-3]
    ask(folder, "chat", "-k", "36", "--min_similarity", str(least), "--json")
    record = json.loads(capsys.readouterr().out)
    assert {source["id"] for source in record["sources"]} == {id_ for id_, value in dense.items() if value >= least}
    with pytest.raises(SystemExit, match=r"Nothing is found for .*: the nearest document has .*Without a source"):
        ask(folder, "chat", "--min_similarity", "1")
    search = HybridSearch(tiny_encoder(folder / "encoder"), {"a": "a red bird"}, dense_weight=0, lexical_weight=1)
    search.save(tmp_path / "words")
    with pytest.raises(SystemExit, match="min_similarity=0.5 needs vectors, whose weight in the index is 0"):
        ask(folder, "chat", "--index", str(tmp_path / "words"), "--min_similarity", "0.5")
    search.remove(["a"])
    search.save(tmp_path / "words")
    with pytest.raises(SystemExit, match="Nothing is found for 'where is the red house.'. Without a source"):
        ask(folder, "chat", "--index", str(tmp_path / "words"))


def test_a_template_is_given_and_a_temperature(folder, capsys):
    ask(folder, "plain", "--chat_template", "chatml", "--temperature", "1.5", "--seed", "3", "--json")
    first = capsys.readouterr().out
    ask(folder, "plain", "--chat_template", "chatml", "--temperature", "1.5", "--seed", "3", "--json")
    assert first == capsys.readouterr().out
    ask(folder, "plain", "--chat_template", "chatml", "--temperature", "1.5", "--seed", "4", "--json")
    assert first != capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--index", "nowhere"], "index='nowhere' is not a folder"),
        (["--max_length", "12"], "max_new_tokens=12 leaves no room for a prompt in the 12 tokens of model="),
        (["--max_length", "20"], "max_tokens=8 has no room for a source"),
        (["--model", "ENCODER"], "model='.*' holds TrineModel, which writes no answer: name a causal language model"),
        (["--model", "CROSS"], "model='.*' holds TrineForSequenceClassification, which writes no answer"),
        (["--model", "nowhere"], "model='nowhere' cannot be read"),
        (["--text", ""], "question='' is an empty text"),
        (["--embedding_model", "OTHER"], "The index was made by model="),
        (["--chat_template", "chatlm"], "Did you mean 'chatml'"),
    ],
)
def test_what_is_refused(folder, options, message):
    if "OTHER" in options:
        save_encoder(folder / "other", seed=1)
    if "CROSS" in options:
        save_classifier(folder / "cross")
    places = {"ENCODER": str(folder / "encoder"), "OTHER": str(folder / "other"), "CROSS": str(folder / "cross")}
    with pytest.raises(SystemExit, match=f"trine answer: .*{message}"):
        ask(folder, "chat", *[places.get(word, word) for word in options])


def test_a_model_that_tells_no_length():
    model, tokenizer = SimpleNamespace(config=PreTrainedConfig()), make_tokenizer()
    tokenizer.model_max_length = 10**30
    words = ["--index", "i", "--model", "m"]
    (arguments,) = answer.parse_arguments([answer.AnswerArguments], words, command="answer", description=None)
    with pytest.raises(ValueError, match="model='m' does not say how many tokens it reads: give --max_length"):
        answer.room_for(arguments, model, tokenizer)


def test_wrong_options(capsys):
    for options, message in {
        ("-k", "0"): "k=0 must be a whole number of at least 1",
        ("--store", "x"): "Name either index, a folder, or store, a database",
        ("--rerank_candidates", "0"): "rerank_candidates=0 must be",
        ("--rerank_weight", "1.5"): "rerank_weight=1.5 must be a number above 0",
        ("--max_new_tokens", "0"): "max_new_tokens=0 must be",
        ("--max_length", "-1"): "max_length=-1 must be",
        ("--min_similarity", "5"): "min_similarity=5.0 must be from -1 to 1: it is a cosine",
        ("--min_similarity", "nan"): "min_similarity=nan must be from -1 to 1",
        ("--temperature", "-1"): "temperature=-1.0 must be a number of at least 0",
        ("--text", "a", "b"): "are 2 questions; put one between quotation marks",
    }.items():
        with pytest.raises(SystemExit):
            answer.main(["--index", "i", "--model", "m", *options])
        assert message in capsys.readouterr().err
