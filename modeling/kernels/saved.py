"""Tensors that a backward pass reads, and that it may use up."""

import torch


def scale_saved(saved: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """`saved * factor`, called in a backward pass: in place, unless another pass is to read `saved` once more."""
    autograd = getattr(torch._C, "_autograd", None)
    keeps_graph = getattr(autograd, "_get_current_graph_task_keep_graph", None)
    if torch.compiler.is_compiling() or keeps_graph is None or keeps_graph():
        return saved * factor
    return saved.mul_(factor)
