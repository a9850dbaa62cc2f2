"""The losses of classifiers: of sequences, tokens, choices and spans."""

# Shapes: N predictions.

import torch
from torch import nn

from ..checks.ids import check_labels, check_shape, check_shares, has_shape
from ..losses import IGNORE_INDEX, lm_loss, number_of_items
from .base import Prediction, Target


VALUE_LOSSES = {
    "regression": nn.functional.mse_loss,
    "single_label_classification": nn.functional.cross_entropy,
    "multi_label_classification": nn.functional.binary_cross_entropy_with_logits,
}


def class_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    name: str = "labels",
    classes: str | None = None,
) -> torch.Tensor:
    """Cross-entropy of classifications, a mean over labels, exact under gradient accumulation; 0 without labels.

    Args:
        logits: (..., number of classes).
        labels: Class indices (...) or (..., 1), `IGNORE_INDEX` where there is none.
        num_items_in_batch: Number of labels in all micro-batches of an optimizer step. Default: those of this batch.
        name: What the labels are called in an error message.
        classes: And the classes.

    Raises:
        ValueError: Labels have another type or shape, or one is none of the classes.
    """
    check_labels(labels, logits.shape[-1], name, classes or f"num_labels={logits.shape[-1]}")
    check_shape(labels, logits.shape[:-1], name)
    return lm_loss(logits, labels, num_items_in_batch)


def value_loss(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """The loss of regression, or of many labels that are yes or no; a mean over values.

    Args:
        logits: (N, number of labels).
        labels: Numbers of the same shape; for one label also (N,).
        problem_type: A name in `VALUE_LOSSES`.
        num_items_in_batch: Number of values in all micro-batches of an optimizer step. Default: those of this batch.

    Raises:
        ValueError: Labels have another shape; or one is neither yes (1) nor no (0), nor between.
    """
    is_single = logits.shape[-1] == 1 and has_shape(labels, logits.shape[:1])
    if not (is_single or has_shape(labels, logits.shape)):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, but problem_type={problem_type!r} needs {tuple(logits.shape)}."
        )
    if problem_type == "multi_label_classification":
        check_shares(labels)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.to(logits).reshape(logits.shape)
    total = VALUE_LOSSES[problem_type](logits, labels, reduction="sum")
    return total / number_of_items(labels, num_items_in_batch)


def sequence_loss(
    config, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """The loss of the problem that `config.problem_type` names.

    If it names none, the labels tell, by transformers' rule: one output is regression, floats are many labels. The
    config remembers it, unless the labels are refused, because pipelines read it to choose between softmax and
    sigmoid.
    """
    problem_type = config.problem_type
    if problem_type is None:
        classes = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        problem_type = "regression" if config.num_labels == 1 else classes
    if problem_type not in VALUE_LOSSES:
        raise ValueError(f"problem_type={problem_type!r} is not one of {list(VALUE_LOSSES)}.")
    if problem_type == "single_label_classification":
        loss = class_loss(logits, labels, num_items_in_batch)
    else:
        loss = value_loss(logits, labels, problem_type, num_items_in_batch)
    if config.problem_type is None:
        config.problem_type = problem_type
    return loss


def span_targets(positions: torch.Tensor, length: int, name: str) -> torch.Tensor:
    """Positions (N,) or (N, 1) of a span's end as targets: those beyond a text's tokens are ignored.

    Raises:
        ValueError: Positions have another type, or one is negative, and not `IGNORE_INDEX`.
    """
    check_labels(positions.clamp(max=length - 1), length, name, f"texts of {length} tokens")
    return positions.masked_fill(positions >= length, IGNORE_INDEX)


def predict_span(
    head, outputs, inputs, start_positions: Target = None, end_positions: Target = None, **kwargs
) -> Prediction:
    """The `predict` of a head with `qa_outputs`: the loss is the mean of those of both ends, if both are given."""
    logits = head.qa_outputs(head.transform(outputs.last_hidden_state))
    start_logits, end_logits = (end.contiguous() for end in logits.unbind(dim=-1))
    fields = {"start_logits": start_logits, "end_logits": end_logits}
    if start_positions is None or end_positions is None:
        return None, None, fields
    items = kwargs.get("num_items_in_batch")
    starts = span_targets(start_positions, logits.shape[1], "start_positions")
    ends = span_targets(end_positions, logits.shape[1], "end_positions")
    start_loss = class_loss(start_logits, starts, items, "start_positions")
    return (start_loss + class_loss(end_logits, ends, items, "end_positions")) / 2, starts, fields
