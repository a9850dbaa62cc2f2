"""Checks of input values that would otherwise surface as an index error deep in a kernel."""

from collections.abc import Sequence

import torch
from transformers.utils.import_utils import is_torchdynamo_compiling

from ...configuration.choices import in_package


IGNORE_INDEX = -100


def can_look(values: torch.Tensor) -> bool:
    """Whether values may be checked: on the CPU only, and not while tracing.

    On an accelerator that would cost a synchronisation in every forward pass, and the kernels stop there by themselves
    at an index that does not exist. So does compiled code.
    """
    return values.device.type == "cpu" and values.numel() > 0 and not is_torchdynamo_compiling()


def may_be_any(conditions: torch.Tensor) -> bool:
    """Whether a condition is true, or may be, where `can_look` forbids a look."""
    return not can_look(conditions) or bool(conditions.any())


def check_ids(ids: torch.Tensor, limit: int, name: str, field: str) -> None:
    """Raises a `ValueError` if `ids` reach beyond the rows of an embedding, where `can_look` allows a look.

    Args:
        ids: Integer tensor of any shape.
        limit: Number of rows.
        name: What the ids are called in the message.
        field: The config field that sets `limit`.
    """
    if not can_look(ids):
        return
    low, high = torch.aminmax(ids)
    if low < 0 or high >= limit:
        raise ValueError(f"{name} hold values from {low} to {high}, but {field}={limit} allows 0 to {limit - 1}.")


def has_shape(tensor: torch.Tensor, shape: Sequence[int]) -> bool:
    """Compares a tensor's shape with `shape`, size by size, which compiled code can do for lengths that vary, too."""
    return tensor.ndim == len(shape) and all(size == other for size, other in zip(tensor.shape, shape, strict=True))


def check_shape(labels: torch.Tensor, shape: Sequence[int], name: str) -> None:
    """Raises a `ValueError` unless labels have the shape of what predicts them, perhaps with a last dimension of 1."""
    if not (has_shape(labels, shape) or has_shape(labels, (*shape, 1))):
        raise ValueError(
            f"{name} have shape {tuple(labels.shape)}, but must have {tuple(shape)}: each prediction needs its own, "
            f"{IGNORE_INDEX} where there is none."
        )


def check_items(num_items_in_batch: torch.Tensor | float | None) -> None:
    """Raises a `ValueError` for a number of targets below 0, or that is no number, where `can_look` allows a look."""
    if torch.is_tensor(num_items_in_batch):
        if not can_look(num_items_in_batch):
            return
        is_number = bool(((num_items_in_batch >= 0) & (num_items_in_batch < torch.inf)).all())
    else:
        is_number = num_items_in_batch is None or 0 <= num_items_in_batch < float("inf")
    if not is_number:
        raise ValueError(
            f"num_items_in_batch={num_items_in_batch} must be the number of targets in all micro-batches of an "
            "optimizer step, 0 or more."
        )


def check_labels(labels: torch.Tensor | None, limit: int, name: str, classes: str) -> None:
    """Raises a `ValueError` for labels that are not int64, or that are no class, where `can_look` allows a look.

    Args:
        labels: Tensor of any shape; `IGNORE_INDEX` is always allowed.
        limit: Number of classes.
        name: Name of the labels in the message.
        classes: The field that sets `limit`, as the message says it: "vocab_size=61".
    """
    if labels is None:
        return
    if labels.dtype != torch.int64:  # PyTorch takes no other for an index
        raise ValueError(
            f"{name} are of {labels.dtype}, but must be of torch.int64: each is the number of a class or a token, or "
            f"{IGNORE_INDEX} where nothing is predicted."
        )
    if not can_look(labels):
        return
    low, high = torch.aminmax(labels.masked_fill(labels == IGNORE_INDEX, 0))
    if low < 0 or high >= limit:
        raise ValueError(
            f"{name} hold values from {low} to {high}; with {classes} they are 0 to {limit - 1}, or {IGNORE_INDEX} "
            "where nothing is predicted."
        )


def check_shares(labels: torch.Tensor) -> None:
    """Raises a `ValueError` for labels of yes or no that lie outside 0 to 1, where `can_look` allows a look."""
    if not can_look(labels):
        return
    low, high = torch.aminmax(labels)
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"labels hold values from {low} to {high}; with problem_type='multi_label_classification' each is a "
            "number from 0 (no) to 1 (yes), and none is ignored."
        )


def check_router_request(config, output_router_logits: bool | None) -> None:
    """Raises a `ValueError` where router logits are asked of a decoder without experts.

    Trainers add a loss of them, which would fail at their absence. In an encoder-decoder one side may have none.
    """
    if not output_router_logits or not getattr(config, "is_causal", False):
        return
    if not config.add_cross_attention and "sparse" not in config.mlp_layer_types:
        raise ValueError(
            "output_router_logits=True, but no layer has experts: mlp_layer_types are all 'dense'. TRL asks for "
            "router logits where its router_aux_loss_coef is set: leave that out, or set it to 0."
        )


# Of what trainers ask and hand over.
REQUEST_CHECKS = in_package((check_router_request,))
ITEM_CHECKS = in_package((check_items,))
