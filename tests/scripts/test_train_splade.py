"""`trine train-embeddings --outputs splade`: a run, its weights by hand, its folder in other hands, and refusals."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from support import forks
from support.tiny import SIZES
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForMaskedLM,
    TrineForPreTraining,
    TrineModel,
    train_wordpiece,
)
from trine.scripts import train_embeddings


NAMES, THINGS = ["red", "green", "blue", "white", "black"], ["house", "horse", "river", "stone", "bird", "lamp"]
PAIRS = [{"anchor": f"{a} {b}", "positive": f"a {b} that is {a}", "not": f"no {b}"} for a in NAMES for b in THINGS]
REMOTE = """
import sys
from sentence_transformers import SparseEncoder
assert "trine" not in sys.modules
model = SparseEncoder(sys.argv[1], device="cpu", trust_remote_code=True)
assert "trine" not in sys.modules
import numpy
numpy.save(sys.argv[2], model.encode(["red house", "no bird"]).to_dense().numpy())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs, checkpoints of several heads, and a run."""
    folder = tmp_path_factory.mktemp("splade")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS), encoding="utf-8")
    tokenizer = train_wordpiece([" ".join(pair.values()) for pair in PAIRS], 300, show_progress=False)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    for model_class in (TrineForMaskedLM, TrineForPreTraining, TrineForCausalLM, TrineModel):
        config = TrineConfig(**sizes, is_causal=model_class is TrineForCausalLM)
        model_class(config).save_pretrained(folder / model_class.__name__)
        tokenizer.save_pretrained(folder / model_class.__name__)
    assert run(folder, "trained", "--negative_field", "not", "--logging_steps", "3") == 0
    return folder


def run(folder, output, *argv, model="TrineForMaskedLM"):
    words = ["--model", str(folder / model), "--files", str(folder / "pairs.jsonl"), "--max_length", "32"]
    words += ["--validation_fraction", "0.2", "--max_steps", "12", "--per_device_train_batch_size", "8"]
    words += ["--learning_rate", "1e-2", "--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no"]
    words += ["--outputs", "splade", "--eval_strategy", "no"]
    return train_embeddings.main([*words, "--output_dir", str(folder / output), *argv])


def weights_by_hand(model, tokenizer, text):
    """log(1 + relu(logit)), the largest over the tokens of the text."""
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0].numpy()
    return np.log1p(np.maximum(logits, 0)).max(axis=0)


def test_a_run_learns_and_its_folder_is_read_by_two_classes(folder):
    metrics = json.loads((folder / "trained" / "metrics.json").read_text())
    assert {*metrics["scores"]} == {"bm25", "before", "after", "after - bm25"}
    history = json.loads((folder / "trained" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses) == 4 and losses[-1] < 0.5 * losses[0]
    model = TrineForMaskedLM.from_pretrained(folder / "trained").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "trained")
    texts = [pair["positive"] for pair in PAIRS]
    found = SparseEncoder(str(folder / "trained"), device="cpu").encode(texts).to_dense().numpy()
    expected = np.array([weights_by_hand(model, tokenizer, text) for text in texts])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_weights_that_are_not_0_are_counted_and_the_regulariser_lowers_them(folder, capsys):
    metrics = json.loads((folder / "trained" / "metrics.json").read_text())
    strong = ["--negative_field", "not", "--query_regularizer_weight", "1", "--document_regularizer_weight", "1"]
    assert run(folder, "few", *strong) == 0
    printed, few = capsys.readouterr().out, json.loads((folder / "few" / "metrics.json").read_text())
    counts, fewer = metrics["active_dimensions"]["after"], few["active_dimensions"]["after"]
    assert all(fewer[side] < 0.5 * counts[side] for side in ("query", "document"))
    assert f"after {fewer['query']:,.1f} of a query, {fewer['document']:,.1f} of a document." in printed
    model = TrineForMaskedLM.from_pretrained(folder / "few").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "few")
    held_out = metrics["validation_pairs"]
    all_counts = [int((weights_by_hand(model, tokenizer, pair["anchor"]) > 0).sum()) for pair in PAIRS]
    assert min(all_counts) <= fewer["query"] <= max(all_counts) and held_out == 6


def test_a_process_without_the_package_reads_the_folder(folder, tmp_path):
    done = forks.run(["-c", REMOTE, str(folder / "trained"), str(tmp_path / "w.npy")], tmp_path)
    assert done.returncode == 0, done.stderr
    expected = SparseEncoder(str(folder / "trained"), device="cpu").encode(["red house", "no bird"]).to_dense()
    np.testing.assert_allclose(np.load(tmp_path / "w.npy"), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_other_models_with_such_a_head(folder):
    assert run(folder, "pretrained", "--max_steps", "1", model="TrineForPreTraining") == 0
    tokenizer = AutoTokenizer.from_pretrained(folder / "TrineModel")
    sizes: Any = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    assert run(folder, "from-bert", "--max_steps", "1", model="bert") == 0
    assert SparseEncoder(str(folder / "from-bert"), device="cpu").encode(["red"]).shape == (1, len(tokenizer))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("TrineModel", "it is a TrineModel, without ['lm_head.bias', 'transform.dense.weight'"),
        ("TrineForCausalLM", "it is a TrineForCausalLM. trine pretrain --objective masked --model trains one"),
    ],
)
def test_a_model_without_the_head_is_refused(model, message, folder):
    with pytest.raises(SystemExit) as caught:
        run(folder, "refused", model=model)
    assert "has no head for masked tokens, from which outputs=['splade'] makes weights" in str(caught.value.code)
    assert message in str(caught.value.code)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--outputs", "splade,dense"], "outputs=['splade', 'dense']: 'splade' needs a head of its own"),
        (["--query_regularizer_weight", "-1"], "query_regularizer_weight=-1.0 must be at least 0."),
        (["--head_learning_rate", "1"], "head_learning_rate=1.0 is that of the new layers of some of ['dense', "),
        (["--outputs", "sparse", "--head_learning_rate", "-1"], "head_learning_rate=-1.0 must be above 0."),
        (
            ["--outputs", "dense", "--document_regularizer_weight", "1"],
            "document_regularizer_weight=1.0 belongs to outputs=['splade'], not to outputs=['dense'].",
        ),
        (["--pooling", "cls"], "pooling='cls' is not read with outputs=['splade']: leave it."),
    ],
)
def test_what_does_not_go_together(words, message, folder, capsys):
    with pytest.raises(SystemExit) as caught:
        run(folder, "refused", *words)
    assert message in str(caught.value.code) + capsys.readouterr().err
