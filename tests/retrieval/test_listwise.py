"""The listwise reranker: every answer a permutation, windows as an oracle orders them, and what fits into a prompt."""

import math
import random

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from trine import TrineConfig, TrineForCausalLM, train_byte_level_bpe, train_unigram, train_wordpiece
from trine.retrieval import ListwiseReranker
from trine.retrieval.listwise import PermutationConstraint, order_by_windows


TEXTS = ["a red house by the river", "a blue horse", "the green lamp is 12 years old", "[3] > [1], said the bird"] * 3
TOKENIZERS = {
    "bytes": train_byte_level_bpe(TEXTS, 300, show_progress=False),
    "words": train_wordpiece(TEXTS, 200, show_progress=False),
    "pieces": train_unigram(TEXTS, 400, show_progress=False),
}
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def make_model(tokenizer, kind="trine", length=2048):
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": length}
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), n_positions=length, n_embd=16, n_layer=1, n_head=2)
        )
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**SMALL, **sizes))
    return TrineForCausalLM(TrineConfig(**SMALL, **sizes))


def make(name="bytes", kind="trine", length=2048, **options):
    return ListwiseReranker(make_model(TOKENIZERS[name], kind, length), TOKENIZERS[name], **options)


class Oracle(ListwiseReranker):
    """Knows how relevant each document is: it is the number that it begins with."""

    calls = 0

    def order(self, query, documents):
        self.calls += 1
        return sorted(range(len(documents)), key=lambda place: -int(documents[place].split()[0]))


def rank_by_windows(values, window, step):
    """RankGPT's windows, on the values themselves: from the end to the beginning, each sorted."""
    values = [*values]
    starts = [*range(len(values) - window, 0, -step), 0] if len(values) > window else [0]
    for start in starts:
        end = start + window if start else len(values) - step * (len(starts) - 1)
        values[start:end] = sorted(values[start:end], reverse=True)
    return values


@pytest.mark.parametrize(
    ("number", "window", "step"), [(100, 20, 10), (25, 20, 10), (21, 20, 10), (20, 20, 10), (7, 3, 1)]
)
def test_windows_with_an_oracle(number, window, step):
    oracle = make()
    oracle.__class__, oracle.window, oracle.step = Oracle, window, step
    values = random.Random(number).sample(range(1000), number)
    found = oracle.rank("?", [f"{value} points" for value in values])
    assert [values[each["corpus_id"]] for each in found] == rank_by_windows(values, window, step)
    assert [values[each["corpus_id"]] for each in found][: window - step] == sorted(values)[::-1][: window - step]
    assert oracle.calls == 1 + max(0, math.ceil((number - window) / step))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_thousand_answers_are_permutations(name):
    """Under random logits, some of them infinite or no numbers."""
    generator, whole, reranker = torch.Generator().manual_seed(1), 0, make_cached(name)
    for number, bad in zip((2, 9, 10, 11, 20), (torch.nan, torch.inf, -torch.inf, torch.nan, torch.inf), strict=True):
        constraint = PermutationConstraint(reranker.first[:number], reranker.next[:number], 3)
        answers = [[7, 7, 7] for _ in range(67)]
        while answers:
            scores = torch.randn(len(answers), 400, generator=generator) * 10
            scores[torch.rand(scores.shape, generator=generator) < 0.2] = bad
            rows = [torch.tensor([ids]) for ids in answers]
            chosen = [constraint(row, scores[n : n + 1])[0].argmax().item() for n, row in enumerate(rows)]
            answers = [[*ids, token] for ids, token in zip(answers, chosen, strict=True)]
            read = [constraint.read(ids) for ids in answers]
            for named, begun in read:
                if len(named) == number:
                    assert sorted(named) == [*range(number)] and not begun
                    whole += 1
            answers = [ids for ids, (named, _) in zip(answers, read, strict=True) if len(named) < number]
    assert whole == 335


CACHED = {}


def make_cached(name):
    if name not in CACHED:
        CACHED[name] = make(name)
    return CACHED[name]


@pytest.mark.parametrize("method", ["generate", "logits"])
@pytest.mark.parametrize(
    ("name", "kind"), [("bytes", "trine"), ("words", "trine"), ("pieces", "llama"), ("bytes", "gpt2")]
)
def test_models_of_every_kind_give_permutations(name, kind, method):
    reranker = make(name, kind, method=method, window=12, step=5)
    for number in (0, 1, 2, 12, 19):
        documents = [TEXTS[place % 2] for place in range(number)]  # many of them equal
        found = reranker.rank("a red river", documents)
        assert sorted(each["corpus_id"] for each in found) == [*range(number)]
        assert [each["score"] for each in found] == [1 / rank for rank in range(1, number + 1)]


def test_what_the_model_writes_is_read():
    """Greedy search by hand over the identifiers that are left, each with the logits of a fresh pass."""
    reranker = make("bytes", window=12, step=5)
    documents = TEXTS[:12]
    ids, left, expected = reranker._fit("red", documents, reranker.max_length), [*range(12)], []
    while len(left) > 1:
        tokens, place = {n: (reranker.next if expected else reranker.first)[n] for n in left}, 0
        while len(tokens) > 1 or place < len(next(iter(tokens.values()))):
            logits = reranker.model(torch.tensor([ids])).logits[0, -1]
            ids = [*ids, max({each[place] for each in tokens.values()}, key=lambda token: logits[token])]
            tokens = {n: each for n, each in tokens.items() if each[place] == ids[-1]}
            place += 1
        expected.append(next(iter(tokens)))
        left.remove(expected[-1])
    assert reranker.order("red", documents) == [*expected, *left]


def test_first_logits_order_letters():
    reranker = make("bytes", method="logits", window=8, step=4)
    ids = reranker._fit("red", TEXTS[:8], 1000) + TOKENIZERS["bytes"]("[")["input_ids"]
    logits = reranker.model(torch.tensor([ids])).logits[0, -1]
    letters = [TOKENIZERS["bytes"].convert_tokens_to_ids(letter) for letter in "ABCDEFGH"]
    assert reranker.order("red", TEXTS[:8]) == logits[letters].argsort(descending=True).tolist()


def test_a_long_document_is_cut_and_the_query_is_not():
    reranker = make("bytes", length=400, window=4, step=2)
    query, documents = "the green lamp " * 9, ["a blue horse", "a red house by the river " * 90, "", "a lamp"]
    room = 400 - reranker._longest_answer(4)
    text = TOKENIZERS["bytes"].decode(reranker._fit(query, documents, room))
    assert len(reranker._fit(query, documents, room)) in range(room - 8, room + 1)
    assert text.count(query) == 2 and "[1] a blue horse\n" in text and "[4] a lamp\n" in text
    assert "[2] a red house by the river a red house" in text
    assert sorted(each["corpus_id"] for each in reranker.rank(query, documents)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"max_length=400 leaves no room for 4 documents: the prompt with the query"):
        reranker.rank("the green lamp " * 100, documents)


def test_a_chat_template_and_braces_in_texts():
    tokenizer = train_byte_level_bpe(TEXTS, 300, show_progress=False)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    reranker = ListwiseReranker(make_model(tokenizer), tokenizer)
    text = tokenizer.decode(reranker._fit("{passages} {x}", ["{query}", "b"], 2000))
    assert text.startswith("<user>I will give you 2 passages") and text.endswith("each of them once.<assistant>")
    assert "the query: {passages} {x}\n\n[1] {query}\n[2] b\n" in text
    assert len(reranker.rank("red", ["a", "b", "c"], top_k=2, return_documents=True)[1]["text"]) == 1


def test_no_window_for_no_or_one_document():
    assert order_by_windows(0, 20, 10, pytest.fail) == []
    assert order_by_windows(1, 20, 10, pytest.fail) == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, r"method='guess' is not one of"),
        ({"window": 1}, r"window=1 must be a whole number of at least 2"),
        ({"step": 0}, r"step=0 must be a whole number of at least 1"),
        ({"max_length": 2.5}, r"max_length=2.5 must be a whole number of at least 1"),
        ({"window": 4, "step": 4}, r"step=4 must be below window=4"),
        ({"prompt": "Rank {passages}"}, r"lacks \['\{query\}'\]"),
        ({"method": "logits", "window": 60}, r"window=60: .* tells the first 52 letters apart"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make("bytes", **options)


def test_identifiers_that_look_alike_are_refused():
    tokenizer = train_wordpiece(["[ ] > a b c"] * 3, 200, show_progress=False)
    tokenizer.backend_tokenizer.normalizer = None
    with pytest.raises(ValueError, match=r"tells the first 26 letters apart"):
        ListwiseReranker(make_model(TOKENIZERS["words"]), TOKENIZERS["words"], method="logits", window=30)


def test_more_documents_than_a_window_and_tokenizers_without_offsets(monkeypatch):
    reranker = make_cached("bytes")
    with pytest.raises(ValueError, match=r"documents are 21, more than window=20"):
        reranker.order("red", ["a"] * 21)
    monkeypatch.setattr(type(TOKENIZERS["bytes"]), "is_fast", False)
    with pytest.raises(ValueError, match=r"does not tell where tokens end; use a fast one"):
        reranker.rank("red", ["a", "b"])
