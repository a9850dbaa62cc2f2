"""Checks of input values that would otherwise surface as an index error deep in a kernel."""

import torch
from transformers.utils.import_utils import is_torchdynamo_compiling

from .losses import IGNORE_INDEX


def can_look(values: torch.Tensor) -> bool:
    """Whether values may be looked at: on the CPU only, and not while tracing.

    On an accelerator that would cost a synchronisation in every forward pass, and the kernels stop there by themselves
    at an index that does not exist. So does compiled code.
    """
    return values.device.type == "cpu" and values.numel() > 0 and not is_torchdynamo_compiling()


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


def check_labels(labels: torch.Tensor | None, limit: int, name: str, classes: str) -> None:
    """Raises a `ValueError` for labels that are neither a class nor `IGNORE_INDEX`, where `can_look` allows a look.

    Args:
        labels: Integer tensor of any shape.
        limit: Number of classes.
        name: What the labels are called in the message.
        classes: What sets `limit`, as the message says it: "vocab_size=61".
    """
    if labels is None or not can_look(labels):
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
    is_decoder = config.is_causal and not config.add_cross_attention
    if output_router_logits and is_decoder and "sparse" not in config.mlp_layer_types:
        raise ValueError(
            "output_router_logits=True, but no layer has experts: mlp_layer_types are all 'dense'. TRL asks for "
            "router logits where its router_aux_loss_coef is set: leave that out, or set it to 0."
        )
