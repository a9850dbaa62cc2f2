"""Training in bfloat16 and float16 on the CPU, beside float32: losses, gradients, and whole runs."""

import copy
import json
import math

import pytest
import torch
from support.recurrent import tiny_config as recurrent_config
from support.tiny import SIZES, random_ids, tiny_config
from transformers import Trainer, TrainingArguments

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineRecurrentForConditionalGeneration,
    TrineSeq2SeqConfig,
)
from trine.configuration.kinds import ATTENTION_KINDS
from trine.scripts import finetune_tagger, pretrain, train_embeddings
from trine.training.run.precision import check_half_precision


# The most that rounding one number changes it, relatively: half the distance to the next.
UNITS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
SPARSE = {"mlp_layer_types": "dense, sparse", "num_experts_per_tok": 2}
POST_NORM = {"norm_position": "post", "norm_type": "layernorm"}
STEADY = [kind for kind in ATTENTION_KINDS if kind != "lsh"]  # rounding may put a token into another bucket
MIXED = {
    "num_hidden_layers": len(STEADY),
    "attention_types": ", ".join(STEADY),
    "qk_norm": True,
}


def decoder(**fields):
    return TrineForCausalLM(tiny_config(**fields))


def encoder():
    return TrineForMaskedLM(tiny_config(is_causal=False, attention_types="full, simplicial", **POST_NORM))


def encoder_decoder():
    stacks = {"encoder": SIZES, "decoder": {**SIZES, "attention_types": "full, simplicial"}}
    return TrineForConditionalGeneration(TrineSeq2SeqConfig(**stacks, decoder_start_token_id=1, pad_token_id=0))


MODELS = {
    "decoder": decoder,
    "decoder, every attention": lambda: decoder(**MIXED),
    "decoder, whole logits": lambda: decoder(loss_chunk_size=None),
    "decoder, short chunks": lambda: decoder(loss_chunk_size=7),
    "decoder, relative positions": lambda: decoder(position_type="relative"),
    "experts": lambda: decoder(**SPARSE),
    "experts, sigmoid": lambda: decoder(**SPARSE, router_type="sigmoid"),
    "encoder": encoder,
    "encoder-decoder": encoder_decoder,
    "recurrent": lambda: TrineRecurrentForConditionalGeneration(recurrent_config()),
}


def make(name: str):
    torch.manual_seed(0)
    model = MODELS[name]().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    ids = random_ids(4, 24, seed=seed, vocab_size=29)
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def loss_and_gradients(model, dtype: torch.dtype | None = None) -> tuple[float, torch.Tensor]:
    """Under autocast if a type is given; the gradients of all parameters in one row, in float64."""
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        loss = model(**batch()).loss
    loss.backward()
    gradients = [weight.grad.double().flatten() for weight in model.parameters() if weight.grad is not None]
    return loss.item(), torch.cat(gradients)


def assert_rounded(actual, expected, dtype: torch.dtype) -> None:
    """A mean over tokens is off by less than a rounding, as their errors cancel; a gradient has gone through some ten
    roundings a layer, which add up like a random walk to about two, so four times that is allowed. And that it is
    off by a tenth of one shows that half precision was used at all."""
    (loss, gradients), (exact_loss, exact) = actual, expected
    assert math.isfinite(loss) and gradients.isfinite().all()
    assert abs(loss / exact_loss - 1) < UNITS[dtype]
    assert UNITS[dtype] / 10 < (gradients - exact).norm() / exact.norm() < 8 * UNITS[dtype]


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("name", MODELS)
def test_autocast_is_close_to_float32(name, dtype):
    model = make(name)
    assert_rounded(loss_and_gradients(copy.deepcopy(model), dtype), loss_and_gradients(model), dtype)


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("name", MODELS)
def test_weights_in_half_precision_are_close_to_the_same_in_float32(name, dtype):
    model = make(name).to(dtype)
    exact = copy.deepcopy(model).float()
    assert_rounded(loss_and_gradients(model), loss_and_gradients(exact), dtype)
    assert {weight.grad.dtype for weight in model.parameters() if weight.grad is not None} == {dtype}


def train(model, dtype: torch.dtype | None, steps: int = 30) -> torch.Tensor:
    """The losses of an ordinary loop with loss scaling, as the trainer's on a GPU, on the same few sentences."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    losses = []
    for step in range(steps):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = model(**batch(seed=step % 4)).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    return torch.tensor(losses)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("name", ["decoder", "experts", "encoder", "encoder-decoder"])
def test_losses_fall_as_in_float32(name, dtype):
    """The loss of every step within 1 %, some roundings of bfloat16, as a router may come to choose otherwise."""
    exact, rough = train(make(name), None), train(make(name), dtype)
    assert rough.isfinite().all() and rough[-4:].mean() < rough[:4].mean() - 0.3
    assert not torch.equal(rough, exact)
    assert (rough / exact - 1).abs().max() < 0.01


TEXTS = [f"Line {n % 7}: the {word} is at number {n}.\n" * 3 for n in range(40) for word in ("reader", "writer")]
SMALL = ["hidden_size=16", "num_hidden_layers=2", "num_attention_heads=2", "intermediate_size=16", "hidden_dropout=0"]
SHAPES = {
    "causal": ["mlp_layer_types=dense, sparse", "num_experts=4", "num_key_value_heads=2"],
    "span_corruption": ["max_position_embeddings=64"],
}


@pytest.mark.slow
@pytest.mark.parametrize("objective", SHAPES)
def test_pretraining_in_bfloat16_is_close_to_float32(objective, tmp_path):
    """The loss of each step within two roundings, 0.8 %, of that of the same run in float32."""
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    argv = ["--files", str(tmp_path / "texts.jsonl"), "--cache_dir", str(tmp_path / "cache"), "--objective", objective]
    argv += ["--vocab_size", "480", "--block_length", "32", "--max_steps", "30", "--learning_rate", "0.01"]
    argv += ["--preset", "t5-like" if objective == "span_corruption" else "tiny", "--logging_steps", "1"]
    argv += ["--config_overrides", *SMALL, *SHAPES[objective], "--no_baselines", "--validation_fraction", "0.2"]
    argv += ["--eval_strategy", "no", "--save_strategy", "no", "--use_cpu", "--disable_tqdm", "true"]
    losses = {}
    for name, options in {"float32": ["fp32"], "bfloat16": ["bf16"]}.items():
        assert pretrain.main([*argv, "--output_dir", str(tmp_path / name), "--precision", *options]) == 0
        history = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        losses[name] = torch.tensor([row["loss"] for row in history if "loss" in row])
    rough, exact = losses["bfloat16"], losses["float32"]
    assert len(rough) == 30 and rough.isfinite().all() and rough[-5:].mean() < rough[:5].mean() - 0.5
    assert not torch.equal(rough, exact)
    assert (rough / exact - 1).abs().max() < 2 * UNITS[torch.bfloat16]


def test_float16_on_a_cpu_is_refused(tmp_path, capsys):
    training = TrainingArguments(output_dir=str(tmp_path), fp16=True, use_cpu=True)
    with pytest.raises(ValueError, match=r"fp16=True trains in float16 on accelerators only: on a CPU use bf16"):
        check_half_precision(training)
    for script in (pretrain, train_embeddings, finetune_tagger):
        argv = ["--files", "nowhere.txt", "--model", "none"][: 2 if script is pretrain else 4]
        with pytest.raises(SystemExit):
            script.main([*argv, "--output_dir", str(tmp_path), "--fp16", "--use_cpu"])
        assert "fp16=True trains in float16 on accelerators only" in capsys.readouterr().err
    check_half_precision(TrainingArguments(output_dir=str(tmp_path), bf16=True, use_cpu=True))


def test_the_trainer_would_say_nothing(tmp_path):
    """Why it is refused: if this fails, the trainer has learned to do it, or to say so."""
    model = TrineForCausalLM(TrineConfig(**SIZES))
    trainer = Trainer(model, TrainingArguments(output_dir=str(tmp_path), fp16=True, use_cpu=True))
    assert trainer.accelerator.mixed_precision == "fp16" and not trainer.accelerator.native_amp
