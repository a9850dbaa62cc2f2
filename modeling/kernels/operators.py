"""Operators that are registered with PyTorch: torch.compile and torch.export take each as one step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def register_operator(
    name: str,
    schema: str,
    compute: Callable,
    fake: Callable,
    differentiate: Callable | None = None,
    keeps_outputs: bool = False,
) -> Any:
    """Registers a function as the operator `trine::name` of PyTorch, and returns the operator to call.

    Args:
        schema: Its arguments, tensors first, and its results in PyTorch's language, such as
            "(Tensor states, Tensor? mask, float scale) -> Tensor".
        compute: Takes the arguments by place.
        fake: Takes the same, and returns empty results of the right shapes.
        differentiate: Takes the arguments, the results and the gradients of the results, a sequence each, and returns
            the gradients of the first arguments; the others have none.
        keeps_outputs: Whether `differentiate` needs the results, which are then kept for it; else it gets none.
    """
    operator: Any = torch.library.custom_op(free_name(name), compute, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    if differentiate is None:
        return operator

    def keep(ctx, inputs, output) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.num_tensors = sum(item is None or isinstance(item, Tensor) for item in inputs)
        ctx.options = inputs[ctx.num_tensors :]
        ctx.save_for_backward(*inputs[: ctx.num_tensors], *(outputs if keeps_outputs else ()))

    def run_backward(ctx, *output_grads) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # asked for once: gradient checkpointing computes them anew
        tensors, outputs = saved[: ctx.num_tensors], saved[ctx.num_tensors :]
        inputs = (*tensors, *ctx.options)
        grads: Sequence[Tensor | None] = differentiate(inputs, outputs, output_grads)
        return *grads, *[None] * (len(inputs) - len(grads))

    operator.register_autograd(run_backward, setup_context=keep)
    return operator


def free_name(name: str) -> str:
    """`trine::name`, or with a number behind `trine` where another copy of this code has registered that already.

    Every checkpoint that is loaded as remote code brings a copy. To register a name again would take the operator from
    under the models of the copy before, which then read memory that is freed.
    """
    namespace, copies = "trine", 1
    while hasattr(getattr(torch.ops, namespace), name):
        copies += 1
        namespace = f"trine_{copies}"
    return f"{namespace}::{name}"
