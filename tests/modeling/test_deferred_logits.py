"""Logits of a training step: not computed for the loss, there for whoever reads them, by every way of reading."""

import io
import pickle

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from support.every_head import CASES, TOKEN_CASES, make
from support.tiny import has_deferred_logits, random_ids, tiny_model
from torch import nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainingArguments


def field_of(name: str) -> str:
    return "prediction_logits" if name == "pretraining" else "logits"


def step(name: str, **fields):
    """A model in training, and the outputs of a batch with labels."""
    model = make(name, **fields)
    return model, model(**CASES[name].batch())


@pytest.mark.parametrize("name", TOKEN_CASES)
def test_they_are_the_ordinary_logits_and_so_are_their_gradients(name):
    direction, results = None, []
    for chunk in (4, None):
        model, outputs = step(name, loss_chunk_size=chunk)
        assert has_deferred_logits(outputs) == (chunk is not None)
        logits = getattr(outputs, field_of(name))
        direction = torch.randn_like(logits) if direction is None else direction
        (outputs.loss + (logits * direction).sum()).backward()
        results.append((logits, {key: p.grad for key, p in model.named_parameters()}))
    assert torch.equal(results[0][0], results[1][0])
    for key, grad in results[1][1].items():
        torch.testing.assert_close(results[0][1][key], grad, rtol=1e-4, atol=1e-5, msg=key)


READERS = {
    "attribute": lambda outputs, field: getattr(outputs, field),
    "name": lambda outputs, field: outputs[field],
    "get": lambda outputs, field: outputs.get(field),
    "index": lambda outputs, field: outputs[1],
    "slice": lambda outputs, field: outputs[1:][0],
    "tuple": lambda outputs, field: outputs.to_tuple()[1],
    "items": lambda outputs, field: dict(outputs.items())[field],
    "values": lambda outputs, field: list(outputs.values())[1],
    "dict": lambda outputs, field: {key: outputs[key] for key in outputs}[field],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", TOKEN_CASES)
def test_every_way_of_reading(name, reader):
    field = field_of(name)
    _, outputs = step(name)
    assert list(outputs)[:2] == ["loss", field] and field in outputs
    assert outputs.loss is outputs["loss"] is outputs[0] is outputs.get("loss") and has_deferred_logits(outputs)
    logits = READERS[reader](outputs, field)
    assert type(logits) is torch.Tensor and logits.requires_grad and not has_deferred_logits(outputs)
    assert logits is getattr(outputs, field) is outputs[field] is dict(outputs.items())[field]
    assert outputs.get("nothing", 3) == 3
    with pytest.raises(KeyError):
        outputs["nothing"]


@pytest.mark.parametrize("name", TOKEN_CASES)
def test_pickled_outputs_hold_tensors(name):
    _, outputs = step(name)
    content = pickle.dumps(outputs)
    assert b"DeferredLogits" not in content
    assert torch.equal(pickle.loads(content)[field_of(name)], outputs[field_of(name)])
    buffer = io.BytesIO()
    torch.save(step(name)[1], buffer)
    assert b"DeferredLogits" not in buffer.getvalue()


def test_a_tuple_has_them():
    ids = random_ids(2, 5)
    model = tiny_model().train()
    loss, logits = model(ids, labels=ids, use_cache=False, return_dict=False)
    assert loss.ndim == 0 and torch.equal(logits, model(ids).logits)


def test_another_value_may_be_written():
    _, outputs = step("causal")
    outputs.logits = torch.zeros(1)
    assert outputs["logits"].item() == outputs.logits.item() == 0 and not has_deferred_logits(outputs)


class HeadProducts(TorchDispatchMode):
    """Counts the rows that are multiplied into a vocabulary of 61 at a time."""

    rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and "mm" in function.__name__ and result.shape[-1] == 61:
            self.rows = max(self.rows, result.numel() // 61)
        return result


@pytest.mark.parametrize("name", ["causal", "masked", "pretraining", "seq2seq"])
def test_nothing_is_computed_that_nobody_reads(name):
    """Not by training, nor by what libraries do to outputs: mixed precision, and flattening for parallel training."""
    model, batch = make(name, loss_chunk_size=4), CASES[name].batch()
    forward = convert_outputs_to_fp32(model.forward)
    with HeadProducts() as products:
        outputs = forward(**batch)
        outputs = _pytree.tree_unflatten(*_pytree.tree_flatten(outputs))
        outputs.loss.backward()
    assert products.rows == 4 and has_deferred_logits(outputs)
    with HeadProducts() as products:
        assert outputs[field_of(name)].shape == (3, 6, 61)
    assert products.rows == 18


@pytest.mark.parametrize("name", TOKEN_CASES)
def test_gradients_pass_what_parallel_training_puts_around_outputs(name):
    """It maps the tensors of the outputs, to learn of the backward pass; so it must of that from the logits alone."""
    _, outputs = step(name)
    seen = []

    def around(value):
        if not (isinstance(value, torch.Tensor) and value.requires_grad):
            return value
        value = value * 1
        value.register_hook(seen.append)
        return value

    outputs = _pytree.tree_map(around, outputs)
    assert has_deferred_logits(outputs)
    getattr(outputs, field_of(name)).sum().backward()
    assert seen


@pytest.mark.parametrize("name", ["causal", "masked", "seq2seq"])
def test_mixed_precision_is_that_of_the_forward_pass(name):
    """Read outside of autocast; and in float32 where accelerate asks for it, as for any output."""
    model, batch = make(name), CASES[name].batch()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(**batch)
        expected = make(name, loss_chunk_size=None)(**batch).logits
    assert expected.dtype == torch.bfloat16 and torch.equal(outputs.logits, expected)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = convert_outputs_to_fp32(model.forward)(**batch)
    assert has_deferred_logits(outputs)
    assert outputs.logits.dtype == torch.float32 and torch.equal(outputs.logits, expected.float())


def test_read_without_gradients_they_have_them_all_the_same():
    """A metric that reads them first must not take the gradient from the loss that reads them next."""
    model, outputs = step("causal")
    with torch.no_grad():
        outputs.logits.argmax(-1)
    outputs.logits.sum().backward()
    assert model.lm_head.weight.grad.any()
    with torch.no_grad():
        outputs = model(**CASES["causal"].batch())
    assert not outputs.logits.requires_grad


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", TOKEN_CASES)
def test_they_are_not_read_with_the_weights_of_the_next_step(name, fused):
    model, outputs = step(name)
    outputs.loss.backward()
    torch.optim.AdamW(model.parameters(), fused=fused).step()
    with pytest.raises(RuntimeError, match=r"Read outputs.logits before optimizer.step\(\), or set loss_chunk_size"):
        getattr(outputs, field_of(name))


def test_heads_that_are_more_than_a_linear_layer_have_ordinary_logits():
    model = make("causal")
    model.lm_head.register_forward_hook(lambda *args: None)
    assert not has_deferred_logits(model(**CASES["causal"].batch()))


@pytest.mark.parametrize("is_training", [True, False])
def test_a_loss_function_that_was_set_is_used(is_training):
    model = make("causal").train(is_training)
    model.loss_function = lambda logits, labels, vocab_size, **kwargs: logits.sum() + vocab_size
    outputs = model(**CASES["causal"].batch())
    torch.testing.assert_close(outputs.loss, outputs.logits.sum() + 61)


# What users do with them


def test_distillation():
    ids = random_ids(4, 12)
    teacher, student = tiny_model(dtype=torch.float32, seed=1), tiny_model(dtype=torch.float32, scale=1.0).train()
    target = teacher(ids).logits.detach().log_softmax(-1)
    optimizer, distances = torch.optim.AdamW(student.parameters(), lr=1e-2), []
    for _ in range(15):
        outputs = student(ids, labels=ids)
        distance = nn.functional.kl_div(outputs.logits.log_softmax(-1), target, reduction="batchmean", log_target=True)
        (0.1 * outputs.loss + distance).backward()
        optimizer.step()
        optimizer.zero_grad()
        distances.append(distance.item())
    assert distances[-1] < 0.8 * distances[0]


@pytest.mark.parametrize("settings", [{}, {"bf16": True}, {"gradient_checkpointing": True}], ids=str)
def test_trainer_with_a_loss_of_ones_own(settings, tmp_path):
    seen = []

    class OwnLoss(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            assert has_deferred_logits(outputs), "the trainer itself has not read them"
            seen.append(outputs.logits.dtype)
            entropy = torch.distributions.Categorical(logits=outputs.logits).entropy().mean()
            return (loss - entropy, outputs) if return_outputs else loss - entropy

    ids, model = random_ids(4, 8), make("causal")
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, save_strategy="no", disable_tqdm=True, use_cpu=True, **settings
    )
    trainer = OwnLoss(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in ids])
    assert abs(trainer.train().training_loss) < 1, "both are near the logarithm of 61"
    assert seen == [torch.float32] * 2


def test_compiled_they_are_deferred_too():
    """In one graph; and whoever reads them within it gets them."""
    ids = random_ids(1, 6)
    model = tiny_model(dtype=torch.float32, attn="sdpa", num_hidden_layers=1).train()
    compiled = torch.compile(lambda ids: model(ids, labels=ids), fullgraph=True, backend="aot_eager")
    outputs = compiled(ids)
    assert has_deferred_logits(outputs)
    torch.testing.assert_close(outputs.logits, model(ids).logits)
    outputs = compiled(ids)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    with pytest.raises(RuntimeError, match="have changed"):
        outputs.to_tuple()
    inside = torch.compile(lambda ids: model(ids, labels=ids).logits, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(inside(ids), model(ids).logits)
