"""`trine train-embeddings --outputs`: a model of several kinds of vectors, its scores, and what is refused."""

import json

import pytest
import torch
from sentence_transformers import SparseEncoder
from support.tiny import SIZES

from trine import TrineConfig, TrineForCausalLM, TrineForMaskedLM, TrineForRetrieval, train_wordpiece
from trine.retrieval.scores import Retrieval
from trine.scripts import train_embeddings
from trine.scripts.jobs.vectors import score_vectors


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
    assert {*metrics["scores"]} == {*rows, "bm25", "after - bm25"} and all(row in printed for row in rows)
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
        (["--outputs", "dense", "colbert"], "outputs[1]='colbert' is not one of ['dense', 'sparse', 'multi_vector']"),
        (
            ["--outputs", "dense", "--pooling", "cls"],
            "pooling='cls' is for one vector per text; with outputs=['dense']",
        ),
        (["--outputs", "dense", "--lora"], "lora=True is for one vector per text; with outputs=['dense'] leave it."),
        (["--outputs", "dense", "--unfreeze_every", "2"], "unfreeze_every=2 is for one vector per text"),
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
