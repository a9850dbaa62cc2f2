"""Labels that are no class are an error that says so, in every head and on every path; none is trained as another."""

import pytest
import torch
from support.every_head import CASES, TOKEN_CASES, make
from support.tiny import random_ids, tiny_model

from trine.modeling.losses import summed_cross_entropy


LIMITS = {"causal": "vocab_size=61", "tokens": "num_labels=3", "choices": "2 choices", "sentences": "two classes"}


def refused(model, inputs) -> str:
    with pytest.raises(ValueError) as caught:
        model(**inputs)
    return str(caught.value)


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", CASES)
def test_a_label_that_is_no_class(name, is_training):
    case = CASES[name]
    for label in case.labels:
        limits = (
            [-1, -101] if name.endswith("spans") else [-1, -101, case.limit]
        )  # positions beyond a text are ignored
        for wrong in limits:
            inputs = case.batch()
            inputs[label].view(-1)[1] = wrong
            message = refused(make(name).train(is_training), inputs)
            low, high = (wrong, "") if wrong < 0 else ("", wrong)
            assert message.startswith(f"{label} hold values from {low}") and f"to {high}" in message
            assert f"they are 0 to {case.limit - 1}, or -100 where nothing is predicted." in message
            assert LIMITS.get(name, "") in message


@pytest.mark.parametrize("wrong", [-1, 61])
@pytest.mark.parametrize("chunk", [4, None])
@pytest.mark.parametrize("name", TOKEN_CASES)
def test_with_and_without_chunks(name, chunk, wrong):
    inputs = CASES[name].batch()
    inputs["labels"][0, 3] = wrong
    assert "labels hold values" in refused(make(name, loss_chunk_size=chunk), inputs)


def test_labels_that_are_shifted_already():
    ids = random_ids(1, 5)
    shifted = ids.clone()
    shifted[0, 2] = -1
    assert "labels hold values from -1" in refused(
        make("causal"), {"input_ids": ids, "labels": ids, "shift_labels": shifted}
    )


@pytest.mark.parametrize("wrong", [-1, -101, 17])
def test_the_chunked_loss_itself_reads_no_row_that_is_not_there(wrong):
    """What is left where nobody looks at the values: a gather stops, on an accelerator too."""
    head = torch.nn.Linear(8, 17)
    with pytest.raises(RuntimeError, match=f"index {wrong} is out of bounds"):
        summed_cross_entropy(torch.randn(3, 8), head, torch.tensor([1, wrong, 2]), 2)


def test_compiled_code_stops_too():
    """There is no look at values in it, so that it is one graph."""
    ids = random_ids(1, 6)
    model = tiny_model(dtype=torch.float32, attn="sdpa", loss_chunk_size=4, num_hidden_layers=1).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids, labels=ids).loss, model(ids, labels=ids).loss)
    labels = ids.clone()
    labels[0, 3] = -1
    with pytest.raises((RuntimeError, IndexError), match="-1 is out of bounds"):
        compiled(ids, labels=labels)


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", [name for name in TOKEN_CASES if name not in ("seq2seq", "recurrent")])
def test_more_or_fewer_labels_than_tokens(name, is_training):
    """By chunks they would be trained in the wrong rows."""
    ids = random_ids(2, 5)
    for length in (4, 7):
        with pytest.raises(ValueError, match=rf"labels have shape \(2, {length}\), but must have \(2, 5\)"):
            make(name).train(is_training)(ids, labels=random_ids(2, length))


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluation"])
def test_logits_to_keep_chooses_what_is_predicted(is_training):
    """As in transformers, labels are then those of the positions that are kept."""
    ids = random_ids(2, 6)
    model = tiny_model(loss_chunk_size=4).train(is_training)
    logits = model(ids).logits[:, -3:-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -2:].flatten())
    outputs = model(ids, labels=ids[:, -3:], logits_to_keep=3)
    torch.testing.assert_close(outputs.loss, expected)
    assert outputs.logits.shape == (2, 3, 61)


def test_values_of_another_number():
    model = CASES["sequences"].make(problem_type="multi_label_classification")
    message = refused(model, {"input_ids": random_ids(2, 5), "labels": torch.ones(2, 2)})
    assert message == "labels have shape (2, 2), but problem_type='multi_label_classification' needs (2, 3)."


@pytest.mark.parametrize("value", [-100.0, 1.5, float("nan")])
@pytest.mark.parametrize("training", [True, False])
def test_labels_of_yes_or_no_lie_between(value, training):
    model = CASES["sequences"].make(problem_type="multi_label_classification").train(training)
    labels = torch.tensor([[0.0, 1.0, 0.5], [1.0, value, 0.0]])
    with pytest.raises(ValueError, match="labels hold values from .* each is a number from 0"):
        model(random_ids(2, 5), labels=labels)


@pytest.mark.parametrize("name", ["spans", "decoded spans"])
def test_positions_beyond_the_text_are_ignored(name):
    case, model = CASES[name], make(name).eval()
    inputs = case.batch()
    inputs["start_positions"], inputs["end_positions"] = torch.tensor([6, 2, -100]), torch.tensor([[1], [99], [3]])
    outputs = model(**inputs)
    start = torch.nn.functional.cross_entropy(outputs.start_logits[1:2], torch.tensor([2]))
    end = torch.nn.functional.cross_entropy(outputs.end_logits[[0, 2]], torch.tensor([1, 3]))
    torch.testing.assert_close(outputs.loss, (start + end) / 2)
