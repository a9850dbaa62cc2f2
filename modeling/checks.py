"""Checks of input values that would otherwise surface as an index error deep in a kernel."""

import torch
from transformers.utils.import_utils import is_torchdynamo_compiling


def check_ids(ids: torch.Tensor, limit: int, name: str, field: str) -> None:
    """Raises a `ValueError` if `ids` reach beyond the rows of an embedding.

    Looks at values on the CPU only, and not while tracing: on an accelerator that would cost a synchronisation in
    every forward pass, and the embedding kernel stops there by itself.

    Args:
        ids: Integer tensor of any shape.
        limit: Number of rows.
        name: What the ids are called in the message.
        field: The config field that sets `limit`.
    """
    if ids.device.type != "cpu" or ids.numel() == 0 or is_torchdynamo_compiling():
        return
    low, high = torch.aminmax(ids)
    if low < 0 or high >= limit:
        raise ValueError(f"{name} hold values from {low} to {high}, but {field}={limit} allows 0 to {limit - 1}.")
