"""`trine train-embeddings --outputs`: a model of several kinds of vectors, its scores, and what is refused."""

import json
from typing import Any

import pytest
import torch
from sentence_transformers import SparseEncoder
from support.tiny import SIZES
from transformers import AutoTokenizer, TrainingArguments

from trine import TrineConfig, TrineForCausalLM, TrineForMaskedLM, TrineForRetrieval, train_wordpiece
from trine.retrieval.scores import Retrieval
from trine.scripts import train_embeddings
from trine.scripts.jobs import vectors
from trine.scripts.jobs.vectors import score_vectors
from trine.training import RetrievalTrainer


NAMES, THINGS = ["red", "green", "blue", "white", "black"], ["house", "horse", "river", "stone", "bird", "lamp"]
PAIRS = [{"anchor": f"{a} {b}", "positive": f"a {b} that is {a}", "not": f"no {b}"} for a in NAMES for b in THINGS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS), encoding="utf-8")
    tokenizer = train_wordpiece([" ".join(pair.values()) for pair in PAIRS], 300, show_progress=False)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    for model_class in (TrineForMaskedLM, TrineForCausalLM):
        model_class(TrineConfig(**sizes, is_causal=model_class is TrineForCausalLM)).save_pretrained(
            folder / model_class.__name__
        )
        tokenizer.save_pretrained(folder / model_class.__name__)
    return folder


def run(folder, output, *argv, model="TrineForMaskedLM"):
    words = ["--model", str(folder / model), "--files", str(folder / "pairs.jsonl"), "--max_length", "32"]
    words += ["--validation_fraction", "0.2", "--max_steps", "12", "--per_device_train_batch_size", "8"]
    words += ["--learning_rate", "1e-2", "--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no"]
    return train_embeddings.main([*words, "--output_dir", str(folder / output), *argv])


def test_a_run_writes_a_model_of_three_kinds_of_vectors(folder, capsys):
    outputs = ["--outputs", "dense,sparse,multi_vector", "--negative_field", "not", "--scale", "10"]
    outputs += ["--logging_steps", "3"]
    assert run(folder, "three", *outputs) == 0
    printed, metrics = capsys.readouterr().out, json.loads((folder / "three" / "metrics.json").read_text())
    kinds = ("", "_dense", "_sparse", "_multi_vector")
    rows = [f"{row}{kind}" for row in ("before", "after") for kind in kinds]
    best = max(kinds[1:], key=lambda kind: metrics["scores"][f"after{kind}"]["ndcg@10"])
    above = f"after - after{best}"
    assert {*metrics["scores"]} == {*rows, "bm25", "after - bm25", above} and all(row in printed for row in rows)
    scores = metrics["scores"]
    assert scores[above]["ndcg@10"] == pytest.approx(scores["after"]["ndcg@10"] - scores[f"after{best}"]["ndcg@10"])
    history = json.loads((folder / "three" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses) == 4 and losses[-1] < 0.8 * losses[0] and metrics["scores"]["after"]["ndcg@10"] > 0.9
    assert (folder / "three" / "loss.png").exists() and metrics["steps"] == 12
    model = TrineForRetrieval.from_pretrained(folder / "three")
    assert model.config.retrieval_outputs == ["dense", "sparse", "multi_vector"]
    found = model.encode(["red house"], return_sparse=True)
    sparse = SparseEncoder(str(folder / "three"), device="cpu").encode(["red house"]).to_dense()
    torch.testing.assert_close(found.sparse_matrix().to_dense(), sparse.cpu(), rtol=1e-5, atol=1e-6)


def test_scores_are_those_of_a_loop(folder):
    tokenizer = train_wordpiece([" ".join(pair.values()) for pair in PAIRS], 300, show_progress=False)
    config = TrineConfig(**{**SIZES, "vocab_size": len(tokenizer)}, is_causal=False, retrieval_outputs=["dense"])
    model = TrineForRetrieval(config).eval()
    tokenizer.model_max_length = 32
    retrieval = Retrieval.from_pairs([(pair["anchor"], pair["positive"], pair["not"]) for pair in PAIRS])
    scores = score_vectors(model, tokenizer, retrieval, "row", 8)
    assert {*scores} == {"row"}, "one kind is its sum"
    ids, first = [*retrieval.corpus], []
    for number, query in retrieval.queries.items():
        states = [
            model.model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            for text in (query, *retrieval.corpus.values())
        ]
        cosines = [float(torch.cosine_similarity(states[0], state, dim=0)) for state in states[1:]]
        first.append(float(ids[cosines.index(max(cosines))] in retrieval.relevant[number]))
    assert scores["row"]["accuracy@1"].tolist() == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--outputs", "dense", "colbert"], "outputs[1]='colbert' is not one of ['dense', 'sparse', 'multi_vector', "),
        (["--outputs", "dense", "--pooling", "cls"], "pooling='cls' is not read with outputs=['dense']: leave it."),
        (["--outputs", "dense", "--lora"], "lora=True is not read with outputs=['dense']: leave it."),
        (["--outputs", "dense", "--unfreeze_every", "2"], "unfreeze_every=2 is not read with outputs=['dense']"),
    ],
)
def test_what_does_not_go_together(words, message, folder, capsys):
    with pytest.raises(SystemExit) as caught:
        run(folder, "refused", *words)
    assert message in str(caught.value.code) + capsys.readouterr().err


def test_a_decoder_is_refused(folder):
    with pytest.raises(SystemExit) as caught:
        run(folder, "refused", "--outputs", "sparse", model="TrineForCausalLM")
    assert "is a decoder of model_type='trine', but outputs=['sparse'] are those of a Trine encoder" in str(
        caught.value.code
    )


def test_a_plain_encoder_gets_heads_whose_weights_begin_above_0(folder, capsys):
    """A pretrained or converted encoder needs no other step: every token counts before the first one."""
    model = TrineForMaskedLM.from_pretrained(folder / "TrineForMaskedLM")
    model.model.save_pretrained(folder / "encoder")
    AutoTokenizer.from_pretrained(folder / "TrineForMaskedLM").save_pretrained(folder / "encoder")
    outputs = ["--outputs", "dense,sparse", "--max_steps", "1", "--learning_rate", "1e-9", "--bm25", "false"]
    assert run(folder, "plain", *outputs, model="encoder") == 0
    assert "The head is new: sparse_linear.bias, sparse_linear.weight." in capsys.readouterr().out
    trained = TrineForRetrieval.from_pretrained(folder / "plain")
    assert trained.sparse_linear.bias.item() == pytest.approx(0.3, abs=1e-6)
    torch.testing.assert_close(trained.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert run(folder, "again", *outputs, model="plain") == 0
    assert "new" not in capsys.readouterr().out, "trained heads are kept"


def test_hard_negatives_are_mined_among_the_training_pairs(folder, tmp_path, monkeypatch):
    seen, make = [], vectors.make_records
    monkeypatch.setattr(vectors, "make_records", lambda pairs: seen.append(pairs) or make(pairs))
    words = ["--negative_field", "not", "--hard_negatives", "2", "--cache_dir", str(tmp_path), "--max_steps", "1"]
    assert run(folder, "mined", "--outputs", "dense", *words) == 0
    metrics = json.loads((folder / "mined" / "metrics.json").read_text())
    assert (metrics["hard_negatives"], metrics["miner"], metrics["drawn_negatives"]) == (2, "BM25", 0)
    training, held_out = seen[0], {text for pair in seen[1] for text in pair[:2]}
    assert len(training) == 24 and {len(pair) for pair in training} == {5}
    for anchor, positive, given, *mined in training:
        assert given == f"no {anchor.split()[1]}" and len({*mined} - {positive}) == 2
        assert not held_out & {*mined} and {*anchor.split()} & {*" ".join(mined).split()}


def test_no_text_is_twice_in_a_batch(folder):
    """Neither a positive nor a negative; each record once in an epoch, and in other batches in the next."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "TrineForMaskedLM")
    texts = [(f"question {number}", f"answer {number % 9}", f"answer {(number + 1) % 9}") for number in range(36)]
    records = vectors.make_records(texts)
    config = TrineConfig(**{**SIZES, "vocab_size": len(tokenizer)}, is_causal=False, retrieval_outputs=["dense"])
    arguments = TrainingArguments(str(folder / "b"), per_device_train_batch_size=6, use_cpu=True, report_to="none")
    options = {"args": arguments, "data_collator": lambda batch: batch, "train_dataset": records}
    trainer = RetrievalTrainer(TrineForRetrieval(config), **options)

    def draw(epoch=0, **changed):
        loader: Any = RetrievalTrainer(TrineForRetrieval(config), **options, **changed).get_train_dataloader()
        loader.set_epoch(epoch)
        return [*loader]

    batches = draw()
    used = [[text for each in batch for text in (each["positive"], *each["negatives"])] for batch in batches]
    assert all(len({*row}) == len(row) for row in used)
    assert sorted(each["query"] for batch in batches for each in batch) == sorted(text for text, *_ in texts)
    assert draw() == batches != draw(epoch=1)
    loose = [
        [text for each in batch for text in (each["positive"], *each["negatives"])]
        for batch in draw(no_duplicates=False)
    ]
    assert any(len({*row}) < len(row) for row in loose) and len(trainer.get_train_dataloader()) == 6


def test_heads_have_a_rate_of_their_own(folder):
    config = TrineConfig(**SIZES, is_causal=False, retrieval_outputs=["dense", "sparse"], unscored_token_ids=[0])
    arguments = TrainingArguments(str(folder / "b"), learning_rate=1e-4, use_cpu=True, report_to="none")
    model = TrineForRetrieval(config)
    optimizer = RetrievalTrainer(model, arguments, train_dataset=[], head_learning_rate=3e-3).create_optimizer()
    rates = {id(tensor): group["lr"] for group in optimizer.param_groups for tensor in group["params"]}
    found = {name: rates[id(tensor)] for name, tensor in model.named_parameters()}
    assert {name for name, rate in found.items() if rate == 3e-3} == {"sparse_linear.weight", "sparse_linear.bias"}
    assert {*found.values()} == {1e-4, 3e-3}
