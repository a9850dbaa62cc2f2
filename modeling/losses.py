"""The language-model loss without the logits of a whole batch."""

# Shapes: N tokens, H hidden size, V vocabulary.

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..configuration.choices import in_package
from .checks.ids import IGNORE_INDEX, ITEM_CHECKS, check_shape
from .kernels.saved import scale_saved
from .kernels.sharded_heads import sum_of_shards


def is_plain_head(head: nn.Module) -> bool:
    """Whether `head` is a plain linear layer: not adapted, quantised, sharded, nor hooked by a wrapper."""
    has_hooks = head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head)
    return type(head) is nn.Linear and type(head.weight) is nn.Parameter and not has_hooks


SHORTEST_CHUNK, LARGEST_BUFFER = 128, 2**23  # tokens, and logits: what a CPU takes at a time of a large vocabulary
CACHED_ROWS = 1024  # of a product, in half precision on a CPU: more are slower to add, as they have left its cache
SCALES = in_package((scale_saved,))
SHARDS = in_package((sum_of_shards,))


def chunked_sum(head: nn.Module) -> Callable | None:
    """The function that sums the loss of a head over chunks of tokens, as `summed_cross_entropy`, or None."""
    shards = (find(head, summed_cross_entropy) for find in SHARDS)
    return summed_cross_entropy if is_plain_head(head) else next(shards, None)


def add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Adds `left @ right`, (N, K) times (K, M), to `total` (N, M) of the same or of a higher precision."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
        return
    size = CACHED_ROWS if total.is_cpu else len(total)
    for rows, part in zip(total.split(size), left.split(size), strict=True):
        rows += (part @ right).to(total.dtype)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of a linear head. Logits exist for one chunk of tokens at a time.

    The forward pass computes the gradients too, while a chunk's logits are at hand, so that nothing is recomputed:
    the arithmetic is that of the ordinary loss, the memory O(chunk * V) in place of several times O(N * V).
    Method: Wijmans et al. 2024, Cut your losses, arXiv 2411.09009; Hsu et al. 2024, Liger Kernel, arXiv 2410.10989.
    """

    @staticmethod
    def forward(ctx, hidden_states, weight, bias, targets, chunk_size, compute_dtype, label_smoothing):
        """Takes what `summed_cross_entropy` takes, with the head as weight (V, H) and bias (V,) or None."""
        sum_dtype = torch.promote_types(compute_dtype, torch.float32)
        needed = zip((hidden_states, weight, bias), ctx.needs_input_grad, strict=False)
        grads = [torch.zeros_like(tensor, dtype=sum_dtype) if needs else None for tensor, needs in needed]
        grad_hidden, grad_weight, grad_bias = grads
        head_weight, head_bias = weight.to(compute_dtype), None if bias is None else bias.to(compute_dtype)
        total = hidden_states.new_zeros((), dtype=sum_dtype)
        if hidden_states.is_cpu:  # as fast, in less memory
            chunk_size = min(chunk_size, max(SHORTEST_CHUNK, LARGEST_BUFFER // weight.shape[0]))
        shape = min(chunk_size, hidden_states.shape[0]), weight.shape[0]
        buffer = torch.empty(shape, dtype=sum_dtype, device=weight.device)
        for start in range(0, hidden_states.shape[0], chunk_size):
            rows = slice(start, start + chunk_size)
            hidden, target = hidden_states[rows].to(compute_dtype), targets[rows, None]
            counts = (target != IGNORE_INDEX).to(sum_dtype)
            index = target.masked_fill(target == IGNORE_INDEX, 0)  # other ids outside of the head are an error here
            # One buffer is logits, then their softmax, then their gradient.
            buffer = buffer[: hidden.shape[0]]
            if compute_dtype == sum_dtype:
                buffer.addmm_(hidden, head_weight.t(), beta=0)
            else:
                buffer.copy_(hidden @ head_weight.t())
            if head_bias is not None:
                buffer += head_bias
            largest, target_logits = buffer.amax(dim=-1, keepdim=True), buffer.gather(-1, index)
            if label_smoothing:
                target_logits = target_logits.lerp(buffer.mean(dim=-1, keepdim=True), label_smoothing)
            torch.softmax(buffer, dim=-1, out=buffer)
            log_share = buffer.amax(dim=-1, keepdim=True).log()  # of the largest
            total += ((largest - target_logits - log_share) * counts).sum()
            if not any(ctx.needs_input_grad):
                continue
            buffer.scatter_add_(-1, index, torch.full_like(counts, label_smoothing - 1))
            if label_smoothing:
                buffer -= label_smoothing / buffer.shape[-1]
            if grad_bias is not None:
                grad_bias += (buffer * counts).sum(dim=0)
            grad_logits, counts = buffer.to(compute_dtype), counts.to(compute_dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = (grad_logits @ head_weight) * counts
            if grad_weight is not None:
                add_product(grad_weight, grad_logits.t(), hidden * counts)
        if grad_weight is not None and weight.dtype == torch.bfloat16:  # float16 might overflow before it is scaled
            grad_weight = grad_weight.to(weight.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (hidden_states.dtype, weight.dtype, weight.dtype)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_total):
        # With a dimension the factor, one over the targets, is not rounded to half precision before it is applied.
        (scale, *_), saved = (*SCALES, torch.mul), zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        grads = (None if grad is None else scale(grad, grad_total[None]).to(dtype) for grad, dtype in saved)
        return *grads, None, None, None, None


def summed_cross_entropy(
    hidden_states: torch.Tensor, head: nn.Linear, targets: torch.Tensor, chunk_size: int, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of `head(hidden_states)` with `targets`, summed, in nats, in float32 or better.

    Args:
        hidden_states: (N, H).
        head: The projection to V logits.
        targets: (N,), token ids, or `IGNORE_INDEX`.
        chunk_size: Tokens per chunk.
        label_smoothing: Share of the target that is spread evenly over the vocabulary.
    """
    device = hidden_states.device.type
    compute_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
    with torch.autocast(device, enabled=False):
        return ChunkedCrossEntropy.apply(
            hidden_states, head.weight, head.bias, targets, chunk_size, compute_dtype, label_smoothing
        )


def causal_targets(labels: torch.Tensor, shift_labels: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
    """The target of each position: `labels` (batch, length) moved one to the left, or the given `shift_labels`."""
    return nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[..., 1:] if shift_labels is None else shift_labels


def shift_right(labels: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """Decoder inputs that predict `labels` (batch, length): the start token, then all labels but the last.

    Raises:
        ValueError: When the config does not tell the start token or the padding.
    """
    start, padding = config.decoder_start_token_id, config.pad_token_id
    if start is None or padding is None:
        raise ValueError(
            f"decoder_start_token_id={start} and pad_token_id={padding} are both needed to make decoder_input_ids "
            "from labels; set them in the config."
        )
    shifted = labels.roll(1, dims=-1)
    shifted[:, 0] = start
    return shifted.masked_fill(shifted == IGNORE_INDEX, padding)


def shift_source(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, config: PreTrainedConfig
) -> torch.Tensor:
    """Decoder inputs that answer at each token of `input_ids` (batch, length): the token before it.

    The first token that is no padding has the start token before it, so that padding at the left changes nothing.

    Args:
        attention_mask: 1 for a token, 0 for padding, (batch, length); any other form says nothing about padding.

    Raises:
        ValueError: When the config does not tell the start token.
    """
    start = config.decoder_start_token_id
    if start is None:
        raise ValueError(
            "decoder_start_token_id=None is needed to make decoder_input_ids from input_ids; set it in the config."
        )
    is_padding_mask = isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2
    is_token = attention_mask != 0 if is_padding_mask else torch.ones_like(input_ids, dtype=torch.bool)
    is_first = is_token & (is_token.cumsum(dim=-1) == 1)
    return input_ids.roll(1, dims=-1).masked_fill(is_first, start)


def flatten_targets(targets: torch.Tensor, predictions: torch.Tensor) -> torch.Tensor:
    """`targets` (...) as (N,), for `predictions` (..., features) of the same N tokens.

    Raises:
        ValueError: Targets have another shape than predictions.
    """
    if predictions.ndim != 2 or targets.numel() != predictions.shape[0]:  # else `logits_to_keep` was a mask
        check_shape(targets, predictions.shape[:-1], "labels")
    return targets.reshape(-1).to(predictions.device)


def chunked_lm_loss(
    hidden_states: torch.Tensor,
    head: nn.Linear,
    targets: torch.Tensor,
    chunk_size: int,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    **kwargs,
) -> torch.Tensor:
    """Cross-entropy of each position with its own target, as transformers' losses compute it, in chunks.

    Without any target it is 0, and so are its gradients, where transformers' losses are 0 / 0.

    Args:
        hidden_states: (..., H).
        head: The projection to the vocabulary.
        targets: (...), token ids, `IGNORE_INDEX` where nothing is predicted. A causal model's are shifted already.
        chunk_size: Tokens whose logits exist at a time.
        num_items_in_batch: What the sum is divided by: the targets of all micro-batches of an optimizer step. Default:
            the targets of this batch.
        label_smoothing: Share of each target that is spread evenly over the vocabulary (Szegedy et al. 2015, arXiv
            1512.00567).
        kwargs: Not used.
    """
    targets = flatten_targets(targets, hidden_states)
    sum_up = chunked_sum(head) or summed_cross_entropy
    total = sum_up(hidden_states.flatten(0, -2), head, targets, chunk_size, label_smoothing)
    return total / number_of_items(targets, num_items_in_batch)


def lm_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    **kwargs,
) -> torch.Tensor:
    """Mean cross-entropy of each position with its target, in nats, from logits (..., V).

    Args:
        logits: (..., V).
        targets: (...), token ids, `IGNORE_INDEX` where nothing is predicted.
        num_items_in_batch: Number of targets in all micro-batches of an optimizer step. Default: those of this batch.
        label_smoothing: Share of each target that is spread evenly over the vocabulary.
        kwargs: Not used.
    """
    targets = flatten_targets(targets, logits)
    logits = logits.flatten(0, -2).to(torch.promote_types(logits.dtype, torch.float32))
    total = nn.functional.cross_entropy(
        logits, targets, ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=label_smoothing
    )
    return total / number_of_items(targets, num_items_in_batch)


def count_targets(targets: torch.Tensor) -> torch.Tensor | int:
    """Number of targets, in any shape, that are not ignored. Of floats, which are values, none is."""
    return targets.numel() if targets.is_floating_point() else (targets != IGNORE_INDEX).sum()


def number_of_items(targets: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    """The divisor of a sum over targets: the given number, or that of the targets that are not ignored.

    Where there is no target it is 1, so that a batch without any adds nothing: its loss is 0 and not 0 / 0, which
    would make every weight NaN, or hide in the mean that a trainer logs.

    Raises:
        ValueError: The given number is below 0 or none.
    """
    for check in ITEM_CHECKS:
        check(num_items_in_batch)
    items = count_targets(targets) if num_items_in_batch is None else num_items_in_batch
    if torch.is_tensor(items):
        items = items.to(targets.device)
    return items + (items == 0)


def batch_share(targets: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | float:
    """The share of this micro-batch in the targets of an optimizer step, a number: the weight of its mean losses.

    Without `num_items_in_batch` that is 1, but 0 for a batch without a target.
    """
    return count_targets(targets) / number_of_items(targets, num_items_in_batch)
