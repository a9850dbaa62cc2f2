"""Checkpoints that torchao has quantised. `make consumers` runs these; without torchao they are left out."""

import json
import os

import pytest
import torch
from support import forks
from support.tiny import random_ids, tiny_model
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, TrainingArguments

from trine import (
    TrineForCausalLM,
    TrineForSequenceClassification,
    TrineRecurrentConfig,
    TrineRecurrentForConditionalGeneration,
    train_byte_level_bpe,
)
from trine.conversion import QATCallback, fast_on_cpu, quantize
from trine.modeling.quantized import is_packed
from trine.scripts import generate
from trine.scripts.benchmarks import energy
from trine.scripts.quantize import main
from trine.training import TrineTrainer


ao = pytest.importorskip("torchao.quantization")
SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_hidden_layers": 2, "pad_token_id": 0}
MODELS = {
    "full": {},
    "sliding, chunked": {"attention_types": "sliding, chunked"},
    "simplicial, linear": {"attention_types": "simplicial, linear"},
    "performer, bigbird": {"attention_types": "performer, bigbird"},
    "lsh, untied": {"attention_types": "lsh", "tie_word_embeddings": False},
    "sparse": {"mlp_layer_types": "sparse", "num_experts": 4, "moe_intermediate_size": 64},
    "plain experts": {"mlp_layer_types": "sparse", "num_experts": 4, "gated_mlp": False, "mlp_bias": True},
}


def small(model_class=TrineForCausalLM, **fields):
    return tiny_model(model_class, **{"dtype": torch.float32, "scale": 1.0, **SIZES, **fields})


def error(actual, expected) -> float:
    return float((actual - expected).norm() / expected.norm())


def quantized(model, folder, **options):
    model.save_pretrained(folder / "source")
    return quantize(folder / "source", folder / "target", **{"embeddings": True, **options})


@torch.no_grad()
@pytest.mark.parametrize("fields", MODELS.values(), ids=[*MODELS])
@pytest.mark.parametrize("scheme", ["int8", "int4", "int2"])
def test_every_kind_is_quantised_and_loads(fields, scheme, tmp_path):
    model, ids = small(**fields), random_ids(2, 9)
    report = quantized(model, tmp_path, scheme=scheme)
    assert report.ratio < 0.45 and report.bytes_after == (tmp_path / "target" / "model.safetensors").stat().st_size
    left = [weight for weight in report.weights if len(weight.shape) > 1 and not weight.is_quantized]
    assert all(weight.why for weight in left) and sum(weight.before for weight in left) < 0.05 * report.bytes_before
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "target").eval()
    logits, expected = again(ids).logits, model(ids).logits
    assert 0 < error(logits, expected) < {"int8": 0.1, "int4": 0.6, "int2": 2}[scheme]
    again.save_pretrained(tmp_path / "more")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "more").eval()(ids).logits, logits)
    fast = fast_on_cpu(again)
    assert not any(is_packed(tensor) for tensor in fast.parameters())
    assert error(fast(ids).logits, logits) < (0.5 if "lsh" in str(fields) else 0.1)  # another bucket, other tokens
    assert fast.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape == (2, 12)


@torch.no_grad()
def test_an_lstm_is_quantised_and_loads(tmp_path):
    config = TrineRecurrentConfig(vocab_size=60, hidden_size=32, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = TrineRecurrentForConditionalGeneration(config).eval()
    report = quantized(model, tmp_path)
    again = TrineRecurrentForConditionalGeneration.from_pretrained(tmp_path / "target").eval()
    inputs = {"input_ids": random_ids(2, 6), "decoder_input_ids": random_ids(2, 4)}
    assert any(weight.kind == "lstm" and weight.is_quantized for weight in report.weights)
    expected = again(**inputs).logits
    assert 0 < error(expected, model(**inputs).logits) < 0.1
    assert error(fast_on_cpu(again)(**inputs).logits, expected) < 0.1


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_of_numbers(dtype, tmp_path):
    model = small(dtype=dtype)
    quantized(model, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "target").eval()
    assert again.dtype == (torch.float32 if dtype == torch.float64 else dtype)
    assert error(again(random_ids(1, 9)).logits.double(), model(random_ids(1, 9)).logits.double()) < 0.1
    assert fast_on_cpu(again)(random_ids(1, 9)).logits.isfinite().all()


STRANGER = """
import sys, torch
sys.modules["trine"] = None
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("target", trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules")
torch.save(model(torch.load("ids.pt")).logits, "logits.pt")
"""


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["int8", "int2"])
def test_a_process_without_the_package_computes_the_same(scheme, tmp_path):
    model = small(mlp_layer_types="dense, sparse", num_experts=4, moe_intermediate_size=64)
    quantized(model, tmp_path, scheme=scheme)
    torch.save(random_ids(2, 9), tmp_path / "ids.pt")
    result = forks.run(["-c", STRANGER], tmp_path, os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")})
    assert result.returncode == 0, result.stderr
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "target").eval()(random_ids(2, 9)).logits
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)


@torch.no_grad()
def test_a_trunk_and_another_head_load_from_it(tmp_path):
    quantized(small(), tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "target").eval()
    trunk = AutoModel.from_pretrained(tmp_path / "target").eval()
    ids = random_ids(2, 9)
    assert torch.equal(trunk(ids).last_hidden_state, whole.model(ids).last_hidden_state)
    trunk.save_pretrained(tmp_path / "trunk")
    headed = AutoModelForSequenceClassification.from_pretrained(tmp_path / "trunk").eval()
    assert torch.equal(headed.model(ids).last_hidden_state, whole.model(ids).last_hidden_state)


@torch.no_grad()
def test_shards_load(tmp_path):
    model = small(TrineForSequenceClassification)
    quantized(model, tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "target").eval()
    again.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len([*(tmp_path / "shards").glob("*.safetensors")]) > 1
    shards = AutoModelForSequenceClassification.from_pretrained(tmp_path / "shards").eval()
    assert torch.equal(shards(random_ids(2, 9)).logits, again(random_ids(2, 9)).logits)


def test_quantised_in_place_is_refused_by_save_pretrained(tmp_path):
    model = small()
    ao.quantize_(model, ao.Int8WeightOnlyConfig())
    with pytest.raises(ValueError, match="weights were quantised in memory"):
        model.save_pretrained(tmp_path / "model")


def test_bad_widths_and_sources_are_named(tmp_path):
    small(intermediate_size=40).save_pretrained(tmp_path / "source")
    with pytest.raises(
        SystemExit, match="does not divide the 40 inputs of model.layers.0.mlp.down_proj.weight and of 1"
    ):
        main([str(tmp_path / "source"), str(tmp_path / "target"), "--scheme", "int4"])
    main([str(tmp_path / "source"), str(tmp_path / "target"), "--scheme", "int4", "--group_size", "8", "--json"])
    with pytest.raises(SystemExit, match="is quantised already"):
        main([str(tmp_path / "target"), str(tmp_path / "twice")])


def test_the_command_tells_what_texts_say(tmp_path, capsys):
    text = "two red birds sit in a tree by the river"
    tokenizer = train_byte_level_bpe([text], vocab_size=300, show_progress=False)
    small(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": text}) + "\n")
    places = [str(tmp_path / "source"), str(tmp_path / "target")]
    main([*places, "--embeddings", "--calibrate", str(tmp_path / "texts.jsonl")])
    told = capsys.readouterr().out
    assert "| all files " in told and "loss before: " in told
    shares = [float(line.rpartition(" ")[2]) for line in told.splitlines() if line.startswith("top-1 agreement")]
    assert len(shares) == 2 and min(shares) > 0.5
    assert "top-1 agreement, int8, fast_on_cpu" in (tmp_path / "target" / "README.md").read_text()
    generate.main(["--model", places[1], "--text", "two", "--max_new_tokens", "3", "--fast_on_cpu"])
    assert capsys.readouterr().out.startswith("two")


@torch.no_grad()
@pytest.mark.parametrize("fields", MODELS.values(), ids=[*MODELS])
def test_training_computes_with_the_weights_that_are_stored(fields, tmp_path):
    """With layers that round, a model computes what the quantised one does; afterwards they are its own again."""
    model, ids = small(**fields), random_ids(2, 9)
    before, keys = model(ids).logits, [*model.state_dict()]
    model.save_pretrained(tmp_path / "source")
    for scheme in ("int4", "int2"):
        callback = QATCallback(scheme, group_size=16)
        callback.prepare(model)
        rounded = model(ids).logits
        assert [*model.state_dict()] == keys and error(rounded, before) > 0.01
        callback.restore(model)
        assert torch.equal(model(ids).logits, before)
        quantize(tmp_path / "source", tmp_path / scheme, scheme=scheme, group_size=16)
        stored = AutoModelForCausalLM.from_pretrained(tmp_path / scheme).eval()
        if callback.scheme.rules["experts"].stored == "int8" and "sparse" in str(fields):  # these train unrounded
            assert error(stored(ids).logits, rounded) < 0.1
        else:
            assert error(stored(ids).logits, rounded) < 1e-5


def test_a_trainer_with_rounded_weights(tmp_path):
    """Its evaluation has the loss of the quantised checkpoint, which training has made smaller than without."""
    torch.manual_seed(0)
    rows = [{"input_ids": row, "labels": row} for row in random_ids(16, 12)]
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=80, learning_rate=3e-3, use_cpu=True, report_to="none", disable_tqdm=True,
        per_device_train_batch_size=16, save_strategy="steps", save_steps=80, eval_strategy="steps", eval_steps=80,
    )  # fmt: skip
    ids = torch.stack([row["labels"] for row in rows])
    losses = {}
    for name, callbacks in (("rounded", [QATCallback("int2", group_size=16)]), ("plain", [])):
        model = small(scale=0.3)
        trainer = TrineTrainer(model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=callbacks)
        trainer.train()
        assert type(model.model.layers[0].self_attn.q_proj) is torch.nn.Linear
        trainer.save_model(tmp_path / name)
        quantize(tmp_path / name, tmp_path / f"{name}-int2", scheme="int2", group_size=16)
        with torch.no_grad():
            stored = AutoModelForCausalLM.from_pretrained(tmp_path / f"{name}-int2").eval()
            losses[name] = float(stored(ids, labels=ids).loss)
        (seen,) = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        assert (abs(seen - losses[name]) < 1e-4) == (name == "rounded")
    assert losses["rounded"] < losses["plain"] - 0.1
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-80")
    assert not any(is_packed(tensor) for tensor in kept.parameters())


def test_the_command_trains_before_it_quantises(tmp_path, capsys):
    text = "two red birds sit in a tree by the river and sing of the sea"
    tokenizer = train_byte_level_bpe([text], vocab_size=300, show_progress=False)
    small(vocab_size=len(tokenizer), scale=0.3).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    (tmp_path / "texts.txt").write_text(f"{text}\n" * 8)
    places, texts = [str(tmp_path / "source"), str(tmp_path / "target")], str(tmp_path / "texts.txt")
    argv = [*places, "--scheme", "int2", "--qat_steps", "8", "--files", texts, "--calibrate", texts, "--json"]
    main([*argv, "--max_length", "16", "--batch_size", "2", "--learning_rate", "3e-3"])
    told = capsys.readouterr().out
    quality = json.loads(told[told.index("{\n") :])["quality"]
    assert quality["steps of training with rounded weights"] == 8
    assert quality["loss, int2"] < quality["loss before"]  # which the source had before it was trained
    assert f"{tmp_path}" not in (tmp_path / "target" / "README.md").read_text()
    with pytest.raises(SystemExit, match="is there already"):
        main(argv)


def test_what_cannot_be_trained_for_few_bits_is_named(tmp_path):
    small(TrineForSequenceClassification).save_pretrained(tmp_path / "classifier")
    (tmp_path / "texts.txt").write_text("a b")
    argv = [str(tmp_path / "classifier"), str(tmp_path / "target"), "--qat_steps", "2"]
    argv += ["--files", str(tmp_path / "texts.txt")]
    with pytest.raises(SystemExit, match="qat_steps=2 trains a decoder, TrineForCausalLM, and source='.*classifier'"):
        main([*argv, "--scheme", "int4"])
    with pytest.raises(SystemExit, match="scheme='int8' leaves nothing for training to repair"):
        main(argv)
    with pytest.raises(ValueError, match="group_size=48 does not divide the 64 inputs of"):
        QATCallback("int4", group_size=48).prepare(small())
    with pytest.raises(ValueError, match="LayerNorm has no linear layers whose weights would have few bits"):
        QATCallback("int4").prepare(torch.nn.LayerNorm(4))


def test_the_benchmark_of_energy_takes_quantised_models(tmp_path, capsys):
    pytest.importorskip("codecarbon")
    quantized(small(), tmp_path)
    words = ["--seconds", "0.1", "--rounds", "1", "--batch", "2", "--new_tokens", "2", "--fast_on_cpu"]
    words += ["--dtypes", "float32", "bfloat16", "--models", str(tmp_path / "source"), str(tmp_path / "target")]
    energy.main(words)
    told = capsys.readouterr().out
    size = (tmp_path / "target" / "model.safetensors").stat().st_size / 1e6
    assert f"| `target`, fast_on_cpu | {size:.1f} MB |" in told
    assert told.count("| `source`") == 2 and told.count("| `target`") == 1
