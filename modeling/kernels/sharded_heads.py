"""The loss of heads whose weights are spread over processes, on chunks of tokens as that of other heads."""

# Shapes: N tokens, H hidden size, V vocabulary, P rows of the head that this process has.

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from ..checks.ids import IGNORE_INDEX
from .saved import scale_saved


class Part(NamedTuple):
    """The rows of a head that this process has: the `first`, of `vocabulary`, spread over the processes of `group`."""

    first: int
    vocabulary: int
    group: Any


class PartialCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of a linear head of which each process has some rows, and all have the same tokens.

    As `ChunkedCrossEntropy`; the processes exchange numbers for each token, and at the end the gradient of the states.
    Method: Shoeybi et al. 2019, Megatron-LM, arXiv 1909.08053, section 3.
    """

    @staticmethod
    def forward(ctx, hidden_states, weight, bias, targets, chunk_size, compute_dtype, label_smoothing, part):
        """Takes states (N, H), the rows as weight (P, H) and bias (P,) or None, and what the loss of all takes."""
        sum_dtype = torch.promote_types(compute_dtype, torch.float32)
        needed = zip((hidden_states, weight, bias), ctx.needs_input_grad[:3], strict=True)
        grads = [torch.zeros_like(tensor, dtype=sum_dtype) if needs else None for tensor, needs in needed]
        head_weight, head_bias = weight.to(compute_dtype), None if bias is None else bias.to(compute_dtype)
        total = hidden_states.new_zeros((), dtype=sum_dtype)
        for start in range(0, hidden_states.shape[0], chunk_size):
            rows = slice(start, start + chunk_size)
            hidden, target = hidden_states[rows].to(compute_dtype), targets[rows, None]
            counts = (target != IGNORE_INDEX).to(sum_dtype)
            is_here = (target >= part.first) & (target < part.first + weight.shape[0])
            index = (target - part.first).clamp(0, weight.shape[0] - 1)
            buffer = nn.functional.linear(hidden, head_weight, head_bias).to(sum_dtype)
            largest = buffer.amax(dim=-1, keepdim=True)
            dist.all_reduce(largest, dist.ReduceOp.MAX, part.group)
            buffer -= largest
            own = buffer.gather(-1, index) * is_here, buffer.sum(dim=-1, keepdim=True)
            sums = torch.stack([*own, buffer.exp_().sum(dim=-1, keepdim=True)])
            dist.all_reduce(sums, group=part.group)
            target_logits, logits, partition = sums
            target_logits = target_logits.lerp(logits / part.vocabulary, label_smoothing)
            total += ((partition.log() - target_logits) * counts).sum()
            buffer *= counts / partition
            buffer.scatter_add_(-1, index, counts * is_here * (label_smoothing - 1))
            buffer -= counts * (label_smoothing / part.vocabulary)
            add_gradients(grads, rows, buffer.to(compute_dtype), hidden, head_weight)
        if grads[0] is not None:
            dist.all_reduce(grads[0], group=part.group)
        ctx.save_for_backward(*grads)
        ctx.dtypes = (hidden_states.dtype, weight.dtype, weight.dtype)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_total):
        saved = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        grads = [None if grad is None else scale_saved(grad, grad_total[None]).to(dtype) for grad, dtype in saved]
        return *grads, None, None, None, None, None


def add_gradients(grads: list, rows: slice, grad_logits: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor):
    """Adds to the gradients of states (N, H), weight (P, H) and bias (P,), each perhaps None, those of a chunk."""
    grad_hidden, grad_weight, grad_bias = grads
    if grad_hidden is not None:
        grad_hidden[rows] = grad_logits @ weight
    if grad_weight is not None:
        grad_weight += grad_logits.t() @ hidden
    if grad_bias is not None:
        grad_bias += grad_logits.sum(dim=0, dtype=grad_bias.dtype)


def sum_in_parts(
    hidden_states: torch.Tensor, head: Any, targets: torch.Tensor, chunk_size: int, label_smoothing: float = 0.0
) -> torch.Tensor:
    """`summed_cross_entropy` of a head whose rows are spread over processes that share a batch."""
    device, weight = hidden_states.device.type, head.weight
    compute_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
    mesh, vocabulary = weight.device_mesh, weight.shape[0]
    first = min(vocabulary, mesh.get_local_rank() * -(-vocabulary // mesh.size()))  # a shard's, as DTensor cuts
    part = Part(first, vocabulary, mesh.get_group())
    bias = None if head.bias is None else head.bias.to_local()
    with torch.autocast(device, enabled=False):
        return PartialCrossEntropy.apply(
            hidden_states, weight.to_local(), bias, targets, chunk_size, compute_dtype, label_smoothing, part
        )


def sum_between_hooks(
    sum_up: Callable, hidden_states: torch.Tensor, head: nn.Module, targets: torch.Tensor, *arguments
) -> torch.Tensor:
    """`sum_up`, between the hooks of a call of the head, which gather its weight and later spread its gradient."""
    head.forward = partial(_sum_up, sum_up, head, targets, arguments)
    try:
        return head(hidden_states)
    finally:
        del head.forward


def _sum_up(sum_up, head, targets, arguments, hidden_states):
    return sum_up(hidden_states, head, targets, *arguments)


def sum_of_shards(head: nn.Module, sum_up: Callable) -> Callable | None:
    """A function like `sum_up`, the loss of a plain head, for one spread by tensor parallelism or FSDP2, else None."""
    is_linear = isinstance(head, nn.Linear)
    if is_linear and hasattr(head, "unshard") and "forward" not in vars(head):  # FSDP2 gives it this method
        return partial(sum_between_hooks, sum_up)
    if type(head) is not nn.Linear or head._forward_hooks or head._forward_pre_hooks:
        return None
    placements = getattr(head.weight, "placements", ())
    return sum_in_parts if len(placements) == 1 and placements[0].is_shard(0) else None
