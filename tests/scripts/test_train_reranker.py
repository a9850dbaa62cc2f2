"""Rerankers from pairs: encoders with and without segments, decoders, each loss; scores by hand; what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder
from support.tiny import SIZES
from transformers import AutoTokenizer, BertConfig, BertModel

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForSequenceClassification,
    TrineModel,
    train_byte_level_bpe,
    train_wordpiece,
)
from trine.retrieval.reranking import load_reranker
from trine.retrieval.scores import Retrieval
from trine.scripts import train_reranker
from trine.scripts.jobs.reranker_losses import LOSSES
from trine.scripts.jobs.rerankers import separate_pairs


NAMES = ["red", "green", "blue", "white", "black", "brown"]
THINGS = ["house", "horse", "river", "stone", "bird", "lamp"]
PAIRS = [{"ask": f"{a} {b}", "text": f"a {b} that is {a}", "not": f"no {b}"} for a in NAMES for b in THINGS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs, and models of each kind that can be trained, or not."""
    folder = tmp_path_factory.mktemp("reranker")
    write(folder / "pairs.jsonl", PAIRS)
    write(folder / "long.jsonl", [{**pair, "text": pair["text"] + " by the river" * 20} for pair in PAIRS])
    texts = [" ".join(pair.values()) for pair in PAIRS]
    words, letters = (train(texts, 300, show_progress=False) for train in (train_wordpiece, train_byte_level_bpe))
    for name, tokenizer, model_class, fields in (
        ("segments", words, TrineModel, {"is_causal": False, "type_vocab_size": 2}),
        ("plain", words, TrineModel, {"is_causal": False}),
        ("decoder", letters, TrineForCausalLM, {}),
        ("three", words, TrineForSequenceClassification, {"is_causal": False, "num_labels": 3}),
    ):
        torch.manual_seed(0)
        sizes = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        model_class(TrineConfig(**sizes, **fields)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    bert = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **bert)).save_pretrained(folder / "bert")
    words.save_pretrained(folder / "bert")
    return folder


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def run(folder, model, output, *argv):
    words = ["--model", str(folder / model), "--files", str(folder / "pairs.jsonl"), "--anchor_field", "ask"]
    words += ["--positive_field", "text", "--max_length", "32", "--max_steps", "3", "--learning_rate", "3e-3"]
    words += ["--per_device_train_batch_size", "4", "--validation_fraction", "0.2", "--hard_negatives", "3"]
    words += ["--cache_dir", str(folder / "cache"), "--use_cpu", "--disable_tqdm", "true", "--precision", "fp32"]
    return train_reranker.main([*words, "--output_dir", str(folder / output), *argv])


@pytest.mark.parametrize(("model", "loss"), [*zip(("segments", "plain", "decoder"), LOSSES, strict=True)])
def test_each_kind_of_model_and_loss_and_what_a_run_leaves(folder, model, loss, capsys):
    options = ["--loss", loss, "--max_steps", "24", "--learning_rate", "1e-2", "--negative_field", "not"]
    options += ["--hard_negatives", "1", "--candidates", "4", "--eval_steps", "24", "--save_strategy", "no"]
    if model == "plain":
        options += ["--pooling", "mean", "--files", str(folder / "long.jsonl")]
    assert run(folder, model, f"out-{model}", *options) == 0
    made = folder / f"out-{model}"
    metrics, printed = json.loads((made / "metrics.json").read_text()), capsys.readouterr().out
    assert metrics["steps"] == 24 and metrics["validation_queries"] == 7 and (made / "loss.png").is_file()
    assert [*metrics["scores"]] == ["search", "after", "after - search"]
    assert f"{metrics['scores']['after']['ndcg@10']:.4f} (" in printed
    assert "ndcg@10" in (made / "README.md").read_text()
    history = json.loads((made / "trainer_state.json").read_text())["log_history"]
    (logged,) = [entry["eval_ndcg@10"] for entry in history if "eval_loss" in entry]
    assert logged == pytest.approx(metrics["scores"]["after"]["ndcg@10"])
    loaded = CrossEncoder(str(made), device="cpu")
    right, wrong = (loaded.predict([(pair["ask"], pair[name]) for pair in PAIRS]) for name in ("text", "not"))
    assert np.mean(right > wrong) > 0.9
    query, long = "red house", "stone " * 50
    pair, alone = loaded.predict([(query, "a river"), (query, long)]), loaded.predict([(query, "a river")])
    assert abs(pair[0] - alone[0]) < 1e-5  # padding, on whichever side, changes nothing
    ids = loaded.preprocess([(query, long)])["input_ids"][0]
    assert len(ids) == 32 and query in loaded.tokenizer.decode(ids)
    assert isinstance(load_reranker(str(made), "cpu"), CrossEncoder)
    assert loaded.config.classifier_pooling == {"segments": "cls", "plain": "mean", "decoder": "last"}[model]
    if model == "decoder":
        end, both = loaded.tokenizer.eos_token, loaded.tokenizer("red", "a house")["input_ids"]
        assert loaded.tokenizer.decode(both) == f"red{end}a house{end}"


def test_the_scores_by_hand(folder):
    write(folder / "held.jsonl", PAIRS[:12])
    options = ["--validation_files", str(folder / "held.jsonl"), "--candidates", "5", "--validation_queries", "8"]
    assert run(folder, "plain", "hand", *options, "--miner", str(folder / "plain")) == 0
    metrics = json.loads((folder / "hand" / "metrics.json").read_text())
    assert (metrics["training_pairs"], metrics["validation_queries"], metrics["candidates"]) == (24, 8, 5)
    pairs = [(pair["ask"], pair["text"]) for pair in PAIRS[:12]]
    candidates = train_reranker.find_candidates(pairs, *arguments_of(folder, options), 42, "cpu")
    model, whole = CrossEncoder(str(folder / "hand"), device="cpu"), Retrieval.from_pairs(pairs)
    gains = []
    for name, ids in zip(candidates.retrieval.queries, candidates.found, strict=True):
        assert len(ids) == 5
        scores = model.predict([(whole.queries[name], whole.corpus[id_]) for id_ in ids])
        order = [ids[place] for place in np.argsort(-scores, kind="stable")]
        (right,) = whole.relevant[name]
        gains.append(1 / np.log2(2 + order.index(right)) if right in order else 0)
    assert metrics["scores"]["after"]["ndcg@10"] == pytest.approx(np.mean(gains), abs=1e-6)


def arguments_of(folder, options):
    types = [train_reranker.RerankerArguments, train_reranker.RerankerTrainingArguments]
    words = ["--model", "m", "--files", "f", *options]
    return train_reranker.parse_arguments(types, words, command="test", description=None)[0], str(folder / "plain")


def test_resuming_is_exact(folder):
    options = ["--max_steps", "4", "--eval_strategy", "no", "--negative_field", "not", "--hard_negatives", "0"]
    options += ["--candidates", "3", "--validation_queries", "1", "--logging_steps", "2"]
    assert run(folder, "plain", "straight", *options, "--save_steps", "2") == 0
    again = str(folder / "straight" / "checkpoint-2")
    assert run(folder, "plain", "resumed", *options, "--resume_from_checkpoint", again) == 0
    straight, resumed = (load_file(folder / name / "model.safetensors") for name in ("straight", "resumed"))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("three", [], r"model='.*three' has a head for num_labels=3, but a reranker gives a pair one score"),
        ("bert", ["--pooling", "mean"], r"pooling='mean' is for models of type 'trine'; .* is of 'bert'"),
        ("plain", ["--pooling", "max"], r"pooling='max' is not one of"),
        ("plain", ["--hard_negatives", "0"], r"hard_negatives=0 needs a negative_field"),
        ("plain", ["--max_length", "5"], r"\d+ anchors, such as '.*', leave no room for a text in max_length=5"),
        ("plain", ["--anchor_field", "question"], r"question"),
        ("nowhere", [], r"nowhere"),
        ("plain", ["--miner", "nowhere"], r"model='nowhere' cannot be read"),
    ],
)
def test_refused(folder, model, options, message):
    with pytest.raises(SystemExit, match=f"(?s)trine.*: .*{message}"):
        run(folder, model, "refused", *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loss", "hinge"], "loss='hinge' is not one of"),
        (["--candidates", "1"], "candidates=1 must be at least 2"),
        (["--validation_queries", "0"], "validation_queries=0 must be at least 1"),
    ],
)
def test_arguments_that_are_refused(folder, options, message, capsys):
    with pytest.raises(SystemExit):
        run(folder, "plain", "refused", *options)
    assert message in capsys.readouterr().err


def test_a_tokenizer_without_an_end_is_refused(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder / "decoder", eos_token=None, bos_token=None)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"writes nothing between two texts, and has no token for an end"):
        separate_pairs(tokenizer, "m")
