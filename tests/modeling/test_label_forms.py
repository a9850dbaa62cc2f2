"""Labels of another type or shape, and impossible numbers of targets, are refused by name in every head."""

import pytest
import torch
from support.every_head import CASES, TOKEN_CASES, make
from support.tiny import random_ids

from trine.modeling.heads.classification_losses import sequence_loss


SEQUENCES = ("sequences", "decoded sequences")  # floats may be many labels there


def refusal(name: str, is_training: bool, **changes) -> str:
    model, inputs = make(name).train(is_training), CASES[name].batch()
    with pytest.raises(ValueError) as caught:
        model(**{**inputs, **changes})
    return str(caught.value)


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.bool])
@pytest.mark.parametrize("name", CASES)
def test_another_type(name, dtype, is_training):
    for label, values in CASES[name].labels.items():
        message = refusal(name, is_training, **{label: values.to(dtype)})
        if name in SEQUENCES and dtype == torch.float32:
            expected = "labels have shape (3,), but problem_type='multi_label_classification' needs (3, 3)"
        else:
            expected = f"{label} are of {dtype}, but must be of torch.int64"
        assert message.startswith(expected)


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", CASES)
def test_another_shape(name, is_training):
    """Also where there are as many labels as predictions: the rows would be others."""
    for label, values in CASES[name].labels.items():
        forms = [values[:2], values[None]]
        if values.ndim == 2:
            forms += [values.t(), values.flatten(), values[:, :-1]]
        if name in ("seq2seq", "recurrent"):
            forms.pop()  # the decoder reads them, and has as many predictions
        for form in forms:
            message = refusal(name, is_training, **{label: form})
            assert message.startswith(f"{label} have shape {tuple(form.shape)}, but must have (")


@pytest.mark.parametrize("number", [-1, float("nan"), float("inf"), torch.tensor(-2), torch.tensor(float("nan"))])
@pytest.mark.parametrize("name", [name for name in CASES if name != "sentences"])
def test_numbers_of_targets_that_cannot_be(name, number):
    for is_training in (True, False):
        assert refusal(name, is_training, num_items_in_batch=number).startswith(f"num_items_in_batch={number} must be")


@pytest.mark.parametrize("name", TOKEN_CASES)
def test_numbers_of_targets_that_can_be(name):
    """A number and a tensor, of a shape too, divide the same sum."""
    model, inputs = make(name).eval(), CASES[name].batch()
    losses = [model(**inputs, num_items_in_batch=n).loss.sum() for n in (5, 5.0, torch.tensor(5), torch.tensor([5]))]
    expected = model(**inputs, num_items_in_batch=10).loss * 2
    for loss in losses:
        torch.testing.assert_close(loss, expected)


def test_refused_labels_choose_no_problem():
    model = CASES["sequences"].make()
    with pytest.raises(ValueError, match="labels have shape"):
        model(random_ids(3, 6), labels=torch.rand(3))
    assert model.config.problem_type is None
    sequence_loss(model.config, torch.randn(3, 3), torch.tensor([0, 1, 2]), None)
    assert model.config.problem_type == "single_label_classification"


def test_shift_labels_that_are_none_are_none():
    model, ids = make("causal"), random_ids(1, 5)
    with pytest.raises(ValueError, match="labels hold values from"):
        model(ids, labels=ids + 61, shift_labels=None)
