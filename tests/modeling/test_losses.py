"""The chunked loss equals the ordinary one, in value and every gradient, and never holds all logits."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import reference
from support.tiny import SPARSE, has_deferred_logits, random_ids, tiny_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Trainer, TrainingArguments
from transformers.loss.loss_utils import ForCausalLMLoss

from trine.modeling.losses import causal_targets, chunked_lm_loss, is_plain_head, summed_cross_entropy


IGNORED = {"nowhere": [], "somewhere": [0, 4, 10], "everywhere": list(range(11))}
TOLERANCES = {"rtol": 1e-10, "atol": 1e-12}


def head_case(bias: bool, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    """Hidden states (11, 8), a head to 17 tokens, and targets."""
    torch.manual_seed(0)
    head = nn.Linear(8, 17, bias=bias, dtype=dtype)
    return torch.randn(11, 8, dtype=dtype, requires_grad=True), head, torch.randint(17, (11,))


def labelled_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Four rows of different lengths, padded on the right, whose labels are ignored in different places."""
    ids = random_ids(4, 12)
    labels = ids.clone()
    for row, length in enumerate((12, 5, 9, 2)):
        labels[row, length:] = -100
    labels[0, 3:6] = -100
    return ids, labels


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], **tolerances) -> None:
    assert actual.keys() == expected.keys() and actual
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, **tolerances, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("chunk_size", [1, 4, 11, 100])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ignored", IGNORED)
def test_the_sum_equals_the_loop(ignored, bias, chunk_size):
    hidden, head, targets = head_case(bias)
    targets[IGNORED[ignored]] = -100
    loss = 0.3 * summed_cross_entropy(hidden, head, targets, chunk_size)
    inputs = (hidden, *head.parameters())
    actual = torch.autograd.grad(loss, inputs)
    total, _ = reference.cross_entropy(head(hidden), targets.tolist())
    expected = torch.autograd.grad(0.3 * total + 0 * sum(tensor.sum() for tensor in inputs), inputs)
    torch.testing.assert_close(loss, 0.3 * total, **TOLERANCES)
    for tensor, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(tensor, other, **TOLERANCES)


@pytest.mark.parametrize("trained", ["hidden_states", "weight", "bias", "everything"])
def test_gradcheck(trained):
    hidden, head, targets = head_case(bias=True)
    targets[3] = -100
    tensors = {"hidden_states": hidden, "weight": head.weight, "bias": head.bias}
    for name, tensor in tensors.items():
        tensor.requires_grad_(trained in (name, "everything"))

    def loss(hidden, weight, bias):
        linear = nn.Linear(1, 1)
        del linear.weight, linear.bias
        linear.weight, linear.bias = weight, bias
        return summed_cross_entropy(hidden, linear, targets, 4)

    assert torch.autograd.gradcheck(loss, tuple(tensors.values()))


@pytest.mark.parametrize("count", [None, 7, torch.tensor(7)])
@pytest.mark.parametrize("shifted", [True, False])
def test_arguments_mean_what_they_mean_in_the_library(shifted, count):
    hidden, labels = torch.randn(3, 6, 8), torch.randint(17, (3, 6))
    labels[1, 2:] = -100
    head = nn.Linear(8, 17)
    shift_labels = labels.roll(2, dims=1) if shifted else None
    actual = chunked_lm_loss(hidden, head, causal_targets(labels, shift_labels), 5, count)
    expected = ForCausalLMLoss(head(hidden), labels, 17, num_items_in_batch=count, shift_labels=shift_labels)
    torch.testing.assert_close(actual, expected)


FREEZERS = {
    "nothing": lambda model: None,
    "head": lambda model: model.lm_head.requires_grad_(False),
    "trunk": lambda model: model.model.requires_grad_(False),
}


@pytest.mark.parametrize(
    ("frozen", "tied"), [("nothing", True), ("head", True), ("nothing", False), ("head", False), ("trunk", False)]
)
@pytest.mark.parametrize("chunk_size", [1, 7, 1024])
def test_a_model_trains_on_chunks_as_on_ordinary_logits(chunk_size, tied, frozen):
    ids, labels = labelled_batch()
    results = []
    for size in (chunk_size, None):
        model = tiny_model(loss_chunk_size=size, tie_word_embeddings=tied, position_type="learned").train()
        FREEZERS[frozen](model)
        outputs = model(ids, labels=labels)
        assert has_deferred_logits(outputs) == (size is not None)
        outputs.loss.backward()
        results.append(({"loss": outputs.loss.detach()}, gradients(model)))
    for actual, expected in zip(*results, strict=True):
        assert_same(actual, expected, rtol=1e-8, atol=1e-10)


def test_evaluation_returns_logits_and_the_same_loss():
    ids, labels = labelled_batch()
    model = tiny_model(dtype=torch.float32)
    evaluated = model(ids, labels=labels)
    assert evaluated.logits.shape == (4, 12, 61)
    torch.testing.assert_close(evaluated.loss, model.train()(ids, labels=labels).loss)
    assert model(ids).logits.shape == (4, 12, 61)


def test_the_loss_equals_the_loop():
    ids, labels = labelled_batch()
    model = tiny_model().train()
    logits = model(ids).logits
    sums, counts = zip(
        *(reference.cross_entropy(row[:-1], target[1:].tolist()) for row, target in zip(logits, labels, strict=True)),
        strict=True,
    )
    torch.testing.assert_close(model(ids, labels=labels).loss, sum(sums) / sum(counts), **TOLERANCES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_close_to_float32(dtype):
    hidden, head, targets = head_case(bias=True, dtype=torch.float32)
    exact = summed_cross_entropy(hidden, head, targets, 4)
    with torch.autocast("cpu", dtype):
        rough = summed_cross_entropy(hidden, head, targets, 4)
    assert rough.dtype == torch.float32 and rough != exact
    torch.testing.assert_close(rough, exact, rtol=1e-2, atol=0)
    inputs = (hidden, head.weight, head.bias)
    for actual, expected in zip(torch.autograd.grad(rough, inputs), torch.autograd.grad(exact, inputs), strict=True):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, expected, rtol=3e-2, atol=3e-2)


def test_a_model_under_autocast_is_close_to_float32():
    ids, labels = labelled_batch()
    losses = {}
    for size in (5, None):
        model = tiny_model(dtype=torch.float32, loss_chunk_size=size, scale=1.0).train()
        exact = model(ids, labels=labels).loss
        with torch.autocast("cpu", torch.bfloat16):
            losses[size] = model(ids, labels=labels).loss
        losses[size].backward()
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
        torch.testing.assert_close(losses[size], exact, rtol=1e-2, atol=0)
    torch.testing.assert_close(losses[5], losses[None], rtol=1e-3, atol=0)


def test_a_bfloat16_model_sums_its_loss_in_float32():
    ids, labels = labelled_batch()
    model = tiny_model(dtype=torch.bfloat16, scale=1.0).train()
    loss = model(ids, labels=labels).loss
    loss.backward()
    assert loss.dtype == torch.float32 and model.lm_head.weight.grad.dtype == torch.bfloat16
    exact = model.double()(ids, labels=labels).loss
    torch.testing.assert_close(loss.double(), exact, rtol=2e-2, atol=0)


@pytest.mark.parametrize("num_tokens", [171, 257])
def test_gradients_of_a_half_precision_head_are_not_scaled_off(num_tokens):
    """One over these numbers is 0.2 % off in bfloat16, half its precision: the gradients may be so too, not more.

    The products of a chunk are rounded before they are scaled, which for some numbers of targets errs to one side.
    """
    torch.manual_seed(0)
    hidden, head = torch.randn(num_tokens, 64, dtype=torch.float64), nn.Linear(64, 50, bias=False).double()
    targets = torch.randint(50, (num_tokens,))
    exact, rough = [], []
    for dtype, gradients in ((torch.float64, exact), (torch.bfloat16, rough)):
        states = hidden.to(dtype).requires_grad_()
        loss = summed_cross_entropy(states, head.to(dtype), targets, 64) / num_tokens
        gradients += torch.autograd.grad(loss, (states, head.weight))
        head = head.double()
    for actual, expected in zip(rough, exact, strict=True):
        scale = (actual.double() * expected).sum() / expected.square().sum()
        assert scale.item() == pytest.approx(1, abs=2e-3)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return result


@pytest.mark.parametrize("tied", [True, False])
def test_the_logits_of_all_tokens_never_exist(tied):
    num_tokens, vocab_size, chunk_size = 4 * 64, 700, 16
    ids = random_ids(4, 64, vocab_size=vocab_size)
    largest = {}
    for size in (chunk_size, None):
        model = tiny_model(loss_chunk_size=size, vocab_size=vocab_size, tie_word_embeddings=tied, attn="sdpa").train()
        with LargestTensor() as mode:
            model(ids, labels=ids).loss.backward()
        largest[size] = mode.largest
    assert largest[None] >= num_tokens * vocab_size, "the measure sees ordinary logits"
    assert largest[chunk_size] <= max(chunk_size * vocab_size, model.lm_head.weight.numel(), num_tokens * 64)


# Heads that are more than a linear layer


def lora(model, **settings):
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, **settings))
    return adapted.train()


def test_an_adapted_head_takes_the_ordinary_path():
    ids, labels = labelled_batch()
    model = tiny_model(dtype=torch.float32, tie_word_embeddings=False, scale=2.0)
    plain_loss = model.train()(ids, labels=labels).loss
    adapted = lora(model, target_modules=["lm_head"])
    assert not is_plain_head(model.lm_head)
    outputs = adapted(ids, labels=labels)
    assert outputs.logits.shape == (4, 12, 61)
    outputs.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in adapted.named_parameters() if "lora" in n)
    merged = adapted.merge_and_unload()
    assert is_plain_head(merged.lm_head)
    merged_loss = merged.train()(ids, labels=labels)
    assert has_deferred_logits(merged_loss)
    torch.testing.assert_close(outputs.loss, merged_loss.loss, rtol=1e-5, atol=1e-5)
    assert abs(outputs.loss - plain_loss) > 1e-3


def test_a_head_that_is_saved_with_an_adapter_takes_the_ordinary_path():
    ids, labels = labelled_batch()
    adapted = lora(
        tiny_model(dtype=torch.float32, tie_word_embeddings=False),
        target_modules=["q_proj"],
        modules_to_save=["lm_head"],
    )
    outputs = adapted(ids, labels=labels)
    outputs.loss.backward()
    assert outputs.logits is not None
    assert adapted.model.lm_head.modules_to_save["default"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("wrap", ["hook", "pre_hook", "forward", "subclass"])
def test_a_head_that_somebody_changed_is_called(wrap):
    model = tiny_model(dtype=torch.float32).train()
    head, called = model.lm_head, []
    if wrap == "hook":
        head.register_forward_hook(lambda *args: called.append(1))
    elif wrap == "pre_hook":
        head.register_forward_pre_hook(lambda *args: called.append(1))
    elif wrap == "forward":
        original = head.forward
        head.forward = lambda x: called.append(1) or original(x)
    else:

        class Quantised(nn.Linear):
            def forward(self, x):
                called.append(1)
                return super().forward(x)

        head.__class__ = Quantised
    ids, labels = labelled_batch()
    assert model(ids, labels=labels).logits is not None and called


# Gradient accumulation


def step_gradients(model, ids, labels, micro_batch_size: int) -> dict[str, torch.Tensor]:
    """Gradients of one optimizer step in micro-batches, summed as `Trainer` sums them."""
    model.zero_grad()
    count = (labels[:, 1:] != -100).sum()
    for rows in range(0, len(ids), micro_batch_size):
        part = slice(rows, rows + micro_batch_size)
        model(ids[part], labels=labels[part], num_items_in_batch=count).loss.backward()
    return gradients(model)


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_four_micro_batches_equal_one_batch(chunk_size):
    ids, labels = labelled_batch()
    model = tiny_model(loss_chunk_size=chunk_size).train()
    assert_same(step_gradients(model, ids, labels, 1), step_gradients(model, ids, labels, 4), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("z_loss", [0.0, 0.7])
def test_four_micro_batches_equal_one_batch_of_a_sparse_model(z_loss):
    """At equal lengths the z-loss is exact too. The balancing loss multiplies two means over the micro-batch, so it is
    another function for every way of splitting a batch: it has coefficient 0 here."""
    ids, coefficients = random_ids(4, 12), {"router_aux_loss_coef": 0.0, "router_z_loss_coef": z_loss}
    model = tiny_model(**coefficients, **SPARSE).train()
    split, whole = (step_gradients(model, ids, ids, size) for size in (1, 4))
    assert_same(split, whole, rtol=1e-6, atol=1e-7)


def test_the_balancing_loss_of_micro_batches_is_their_weighted_mean():
    ids, labels = labelled_batch()
    model = tiny_model(router_aux_loss_coef=1.0, **SPARSE).train()
    targets = (labels[:, 1:] != -100).sum(dim=1)
    total, expected = 0.0, 0.0
    for row in range(4):
        one = slice(row, row + 1)
        outputs = model(ids[one], labels=labels[one], num_items_in_batch=targets.sum())
        total += outputs.loss
        model.config.router_aux_loss_coef = 0.0
        cross_entropy = model(ids[one], labels=labels[one], num_items_in_batch=targets.sum()).loss
        model.config.router_aux_loss_coef = 1.0
        expected += cross_entropy + outputs.aux_loss * targets[row] / targets.sum()
    torch.testing.assert_close(total, expected)


def test_trainer_accumulates_four_batches_like_one(tmp_path):
    ids, labels = labelled_batch()
    data = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    states = []
    for batch_size, steps in ((1, 4), (4, 1)):
        model = tiny_model(dtype=torch.float32, scale=1.0)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        Trainer(model, arguments, train_dataset=data).train()
        states.append(model.state_dict())
    start = tiny_model(dtype=torch.float32, scale=1.0).state_dict()
    assert any(not torch.equal(start[name], states[0][name]) for name in start)
    assert_same(states[0], states[1], rtol=1e-4, atol=1e-5)
