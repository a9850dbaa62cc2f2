"""2-simplicial attention by Triton kernels, as operators that torch.compile and torch.export trace through.

The kernels fold the second window into the rows of a flash-attention loop over the first (simplicial_triton_rows.py);
nothing of size Q * K * M or Q * M * D reaches memory. Cost, with windows w1 and w2: 4 Q w1 w2 D operations a head
forward and 16 Q w1 w2 D backward.
"""

# Shapes: B batch, H heads, G key-value heads, Q queries, K keys, M second keys, D head size, T offsets.

import torch
from torch import Tensor

from ...operator_names import free_name
from ..forms import Reach
from .launch import LARGEST_SECOND_WINDOW, LARGEST_VECTOR, launch_backward, launch_forward, shared_arguments
from .rows import is_interpreted, triton


KERNEL_DTYPES = [torch.float32, torch.float16] if is_interpreted else [torch.float32, torch.bfloat16, torch.float16]


def triton_unavailable(query: Tensor, second: Reach | None = None) -> str | None:
    """Why the Triton path cannot serve these queries and this second window, or None if it can."""
    if triton is None:
        return "Triton is not installed"
    if query.device.type != "cuda" and not is_interpreted:
        return f"query.device='{query.device}' is not a CUDA device"
    if query.dtype not in KERNEL_DTYPES:
        return f"query.dtype={query.dtype} is not one of {KERNEL_DTYPES}"
    largest_head = LARGEST_VECTOR // query.element_size()
    if query.shape[-1] > largest_head:
        return f"the head size {query.shape[-1]} is larger than {largest_head} for query.dtype={query.dtype}"
    if second is not None and second.size > LARGEST_SECOND_WINDOW:
        return f"the second window's size {second.size} is larger than {LARGEST_SECOND_WINDOW}"
    return None


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    second_key: Tensor,
    second_value: Tensor,
    offset_bias: Tensor | None,
    segments: Tensor | None,
    first_left: int,
    first_right: int,
    second_left: int,
    second_right: int,
    form: str,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output (B, H, Q, D) and natural log-sum-exp (B, H, Q) in float32, which is -inf where nothing is seen."""
    inputs = (query, key, value, second_key, second_value)
    first, second = Reach(first_left, first_right), Reach(second_left, second_right)
    return launch_forward(shared_arguments(inputs, offset_bias, segments, first, second, form, scale))


def fake_forward(query, *_):
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    return output, query.new_empty(query.shape[:3], dtype=torch.float32)


def backward(
    output_grad: Tensor,
    log_sum: Tensor,
    delta: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    second_key: Tensor,
    second_value: Tensor,
    offset_bias: Tensor | None,
    segments: Tensor | None,
    first_left: int,
    first_right: int,
    second_left: int,
    second_right: int,
    form: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the five inputs and of the offset biases (0, without them).

    Args:
        delta: (B, H, Q) in float32, the sum of output times its gradient, less the gradient of `log_sum`.
    """
    inputs = (query, key, value, second_key, second_value)
    first, second = Reach(first_left, first_right), Reach(second_left, second_right)
    shared = shared_arguments(inputs, offset_bias, segments, first, second, form, scale)
    *gradients, bias_grad = launch_backward(shared, output_grad, log_sum, delta)
    if offset_bias is None:
        return *gradients, query.new_empty(0)  # pyright: ignore[reportReturnType] five gradients
    return *gradients, bias_grad.to(offset_bias.dtype)  # pyright: ignore[reportReturnType] five gradients


def fake_backward(output_grad, log_sum, delta, query, key, value, second_key, second_value, offset_bias, *_):
    inputs = (query, key, value, second_key, second_value)
    gradients = tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs)
    return *gradients, query.new_empty(0) if offset_bias is None else torch.empty_like(offset_bias)


def save_for_backward(ctx, inputs, output) -> None:
    tensors, ctx.options = inputs[:7], inputs[7:]
    ctx.save_for_backward(*output, *tensors)


def differentiate(ctx, output_grad, log_sum_grad):
    output, log_sum, *tensors = ctx.saved_tensors
    delta = (output.float() * output_grad.float()).sum(dim=-1) - log_sum_grad
    *gradients, bias_grad = backward_operator(output_grad, log_sum, delta, *tensors, *ctx.options)
    return *gradients, None if tensors[5] is None else bias_grad, None, *[None] * len(ctx.options)


forward_operator = torch.library.custom_op(free_name("simplicial_triton_forward"), forward, mutates_args=())
forward_operator.register_fake(fake_forward)
forward_operator.register_autograd(differentiate, setup_context=save_for_backward)
backward_operator = torch.library.custom_op(free_name("simplicial_triton_backward"), backward, mutates_args=())
backward_operator.register_fake(fake_backward)


def simplicial_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    second_key: Tensor,
    second_value: Tensor,
    offset_bias: Tensor | None,
    segments: Tensor | None,
    *,
    first: Reach,
    second: Reach,
    form: str,
    scale: float,
) -> Tensor:
    """2-simplicial attention (B, H, Q, D). The second window, folded into the rows, is better the smaller one.

    Args:
        query: (B, H, Q, D), the last Q tokens of both axes.
        key, value: (B, G, K, D), of the query's type.
        second_key, second_value: (B, G, M, D), likewise.
        offset_bias: (H, T), added to the logits of a query and the second key that lies t - second.left from it.
        segments: (B, max(K, M)) int32, ending where the keys end; 0 is padding.

    Raises:
        ValueError: When `triton_unavailable` has a reason, or types differ.
    """
    inputs = (query, key, value, second_key, second_value)
    if any(tensor.dtype != query.dtype for tensor in inputs):
        raise ValueError(f"The inputs differ in dtype: {[tensor.dtype for tensor in inputs]}.")
    reason = triton_unavailable(query, second)
    if reason is not None:
        raise ValueError(f"The Triton path cannot serve this call: {reason}.")
    output, _ = forward_operator(
        *inputs, offset_bias, segments, first.left, first.right, second.left, second.right, form, scale
    )
    return output
