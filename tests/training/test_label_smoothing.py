"""Smoothed losses against their definition, by hand, in every shape, with the router losses of sparse models."""

import pytest
import torch
from support import recurrent
from support.tiny import SPARSE, tiny_config
from torch import nn
from transformers import TrainingArguments

from trine import (
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineForPreTraining,
    TrineSeq2SeqConfig,
)
from trine.training.run.trainers import TrineTrainer


FACTOR = 0.1
SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def seq2seq(**fields):
    return TrineForConditionalGeneration(TrineSeq2SeqConfig.from_preset("tiny", **SIZES, **fields))


SHAPES = {
    "decoder": lambda **fields: TrineForCausalLM(tiny_config(use_cache=False, **fields)),
    "encoder": lambda **fields: TrineForMaskedLM(tiny_config(is_causal=False, **fields)),
    "encoder with next sentences": lambda **fields: TrineForPreTraining(tiny_config(is_causal=False, **fields)),
    "encoder-decoder": seq2seq,
    "recurrent": lambda **fields: recurrent.tiny_model(dtype=torch.float32, **fields),
}


def make(shape: str, chunk, **fields):
    torch.manual_seed(0)
    return SHAPES[shape](loss_chunk_size=chunk, **fields).train()


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, 41, (3, 8), generator=generator)
    labels[1, 5:] = -100
    return {"input_ids": torch.randint(3, 41, (3, 8), generator=generator), "labels": labels}


def by_hand(model, inputs, factor=FACTOR) -> torch.Tensor:
    """`(1 - e) * nll + e * mean over the vocabulary of -log p`, the mean of all targets."""
    labels = inputs["labels"]
    model.config.loss_chunk_size = None
    without = {name: value for name, value in inputs.items() if name != "labels"}
    if model.config.is_encoder_decoder:
        without["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels)
    output = model(**without)
    logits = output.logits if hasattr(output, "logits") else output.prediction_logits
    if isinstance(model, TrineForCausalLM):
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = []
    for row, target in zip(logits.flatten(0, 1).log_softmax(-1), labels.flatten(), strict=True):
        if target != -100:
            losses.append(-(1 - factor) * row[target] - factor * row.mean())
    return torch.stack(losses).mean()


def smoothed(model, inputs, folder, **kwargs):
    trainer = TrineTrainer(model, TrainingArguments(str(folder), label_smoothing_factor=FACTOR, use_cpu=True))
    return trainer.compute_loss(model, dict(inputs), **kwargs)


@pytest.mark.parametrize("chunk", [5, None])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_and_its_gradients_are_those_of_the_definition(shape, chunk, tmp_path):
    model, inputs = make(shape, chunk), batch()
    loss = smoothed(model, inputs, tmp_path)
    loss.backward()
    actual = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    expected = by_hand(model, inputs)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", ["decoder", "encoder", "encoder-decoder"])
def test_router_losses_are_kept(shape, tmp_path):
    fields = {"router_aux_loss_coef": 0.5, "num_experts": 4, "moe_intermediate_size": 8, **SPARSE}
    model, inputs = make(shape, 5, **fields), batch()
    loss = smoothed(model, inputs, tmp_path)
    plain = model(**inputs, output_router_logits=True)
    router_losses = plain.loss - by_hand(model, inputs, factor=0.0)
    assert router_losses > 0.5 and plain.aux_loss > 0.5
    torch.testing.assert_close(loss, by_hand(model, inputs) + router_losses)


def test_micro_batches_are_weighted_by_their_targets(tmp_path):
    model, inputs = make("decoder", 5), batch()
    whole = smoothed(model, inputs, tmp_path)
    targets = (inputs["labels"][:, 1:] != -100).sum()
    parts = [{name: value[row : row + 1] for name, value in inputs.items()} for row in range(3)]
    total = sum(smoothed(model, part, tmp_path, num_items_in_batch=targets) for part in parts)
    torch.testing.assert_close(total, whole)


def test_evaluation_is_not_smoothed(tmp_path):
    model, inputs = make("decoder", 5).eval(), batch()
    logits = model(inputs["input_ids"]).logits[:, :-1].flatten(0, 1)
    torch.testing.assert_close(
        smoothed(model, inputs, tmp_path), nn.functional.cross_entropy(logits, inputs["labels"][:, 1:].flatten())
    )


def test_a_factor_that_is_no_share(tmp_path):
    with pytest.raises(ValueError, match=r"label_smoothing_factor=1.5 must be at least 0 and below 1"):
        TrineTrainer(make("decoder", 5), TrainingArguments(str(tmp_path), label_smoothing_factor=1.5, use_cpu=True))
