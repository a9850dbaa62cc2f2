"""The mixture of a pointer-generator: log-probabilities, and the loss without those of a whole batch."""

# Shapes: N tokens, H hidden size, S source tokens, V vocabulary.

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from ..checks.ids import IGNORE_INDEX
from ..losses import LARGEST_BUFFER, SHORTEST_CHUNK, flatten_targets, number_of_items


def log_shares(log_written: torch.Tensor, gate: torch.Tensor, copied: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Compares, for tokens of the source, the two parts of their probability.

    Args:
        log_written: log(p_gen * p(token)) by the vocabulary, (..., S).
        gate: The logit of p_gen, (..., 1).
        copied: Attention to the token, in one of the positions that hold it, and 0 in the others, (..., S).

    Returns:
        The log of the part by copying over that by the vocabulary, (..., S), and where there is such a part.
    """
    is_first = copied > 0
    log_copied = copied.clamp_min(torch.finfo(copied.dtype).tiny).log() + logsigmoid(-gate)
    return log_copied - log_written, is_first


def mix_copies(logits: torch.Tensor, gate: torch.Tensor, copied: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log(p_gen * softmax(logits) + (1 - p_gen) * copied), in float32 or better.

    The two parts are added as logarithms, and only at the tokens of the source.

    Args:
        logits: (..., V).
        gate: The logit of p_gen, (..., 1).
        copied: As of `log_shares`, (..., S).
        ids: The tokens of the source, (..., S).
    """
    log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1) + logsigmoid(gate)
    ratio, is_first = log_shares(log_probs.gather(-1, ids), gate, copied)
    return log_probs.scatter_add(-1, ids, torch.logaddexp(ratio, torch.zeros_like(ratio)) * is_first)


class ChunkedCopyLoss(torch.autograd.Function):
    """Summed cross-entropy of the mixture with a linear head, whose logits exist for one chunk of tokens at a time.

    As `ChunkedCrossEntropy`, the forward pass computes the gradients, too.
    """

    @staticmethod
    def forward(
        ctx, hidden_states, weight, bias, gate, copied, ids, targets, chunk_size, compute_dtype, label_smoothing
    ):
        """Takes states (N, H), the head as weight (V, H) and bias (V,) or None, and what `mix_copies` takes of N."""
        sum_dtype = torch.promote_types(compute_dtype, torch.float32)
        needed = zip((hidden_states, weight, bias, gate, copied), ctx.needs_input_grad, strict=False)
        grads = [torch.zeros_like(tensor, dtype=sum_dtype) if needs else None for tensor, needs in needed]
        grad_hidden, grad_weight, grad_bias, grad_gate, grad_copied = grads
        head_weight, head_bias = weight.to(compute_dtype), None if bias is None else bias.to(compute_dtype)
        total, vocabulary = hidden_states.new_zeros((), dtype=sum_dtype), weight.shape[0]
        if hidden_states.is_cpu:  # as fast, in less memory
            chunk_size = min(chunk_size, max(SHORTEST_CHUNK, LARGEST_BUFFER // vocabulary))
        for start in range(0, hidden_states.shape[0], chunk_size):
            rows = slice(start, start + chunk_size)
            hidden, target, places = hidden_states[rows].to(compute_dtype), targets[rows, None], ids[rows]
            counts = (target != IGNORE_INDEX).to(sum_dtype)
            index = target.masked_fill(target == IGNORE_INDEX, 0)
            # One buffer is logits, then their exponentials, then their gradient.
            buffer = nn.functional.linear(hidden, head_weight, head_bias).to(sum_dtype)
            buffer -= buffer.amax(dim=-1, keepdim=True)
            wanted, at_places = buffer.gather(-1, index), buffer.gather(-1, places)
            if label_smoothing:
                wanted = wanted.lerp(buffer.mean(dim=-1, keepdim=True), label_smoothing)
            partition = buffer.exp_().sum(dim=-1, keepdim=True)
            log_scale = logsigmoid(gate[rows]) - partition.log()
            ratio, is_first = log_shares(at_places + log_scale, gate[rows], copied[rows])
            gained = torch.logaddexp(ratio, torch.zeros_like(ratio)) * is_first
            weights = (places == index).to(sum_dtype) * (1 - label_smoothing) + label_smoothing / vocabulary
            total -= ((wanted + log_scale + (weights * gained).sum(dim=-1, keepdim=True)) * counts).sum()
            if not any(ctx.needs_input_grad):
                continue
            by_copying = weights * ratio.sigmoid() * is_first * counts
            sums = by_copying.sum(dim=-1, keepdim=True)
            if grad_gate is not None:
                grad_gate[rows] = sums - counts * (-gate[rows]).sigmoid()
            if grad_copied is not None:
                grad_copied[rows] = -by_copying / copied[rows].clamp_min(torch.finfo(copied.dtype).tiny)
            buffer *= (counts - sums) / partition
            buffer.scatter_add_(-1, places, by_copying)
            buffer.scatter_add_(-1, index, counts * (label_smoothing - 1))
            if label_smoothing:
                buffer -= counts * (label_smoothing / vocabulary)
            if grad_bias is not None:
                grad_bias += buffer.sum(dim=0)
            grad_logits = buffer.to(compute_dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = (grad_logits @ head_weight).to(sum_dtype)
            if grad_weight is not None:
                grad_weight += grad_logits.t() @ hidden
        ctx.save_for_backward(*grads)
        ctx.dtypes = [tensor.dtype for tensor in (hidden_states, weight, weight, gate, copied)]
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_total):
        saved = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        grads = (None if grad is None else (grad * grad_total).to(dtype) for grad, dtype in saved)
        return *grads, None, None, None, None, None


def chunked_copy_loss(
    hidden_states: torch.Tensor,
    head: nn.Linear,
    gate: torch.Tensor,
    copied: torch.Tensor,
    ids: torch.Tensor,
    targets: torch.Tensor,
    chunk_size: int,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    **kwargs,
) -> torch.Tensor:
    """`lm_loss` of `mix_copies(head(hidden_states), gate, copied, ids)`, in chunks of `chunk_size` tokens.

    Arguments are those of the two functions.
    """
    targets, device = flatten_targets(targets, hidden_states), hidden_states.device.type
    compute_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
    states, *parts = (tensor.flatten(0, -2) for tensor in (hidden_states, gate, copied, ids))
    with torch.autocast(device, enabled=False):
        total = ChunkedCopyLoss.apply(
            states, head.weight, head.bias, *parts, targets, chunk_size, compute_dtype, label_smoothing
        )
    return total / number_of_items(targets, num_items_in_batch)
