"""2-simplicial attention by Triton kernels, as operators that torch.compile and torch.export trace through.

The kernels fold the second window into the rows of a flash-attention loop over the first (rows.py);
nothing of size Q * K * M or Q * M * D reaches memory. Cost, with windows w1 and w2: 4 Q w1 w2 D operations per head
forward and 16 Q w1 w2 D backward.
"""

# Shapes: B batch, H heads, G key-value heads, Q queries, K keys, M second keys, D head size, T offsets.

import torch
from torch import Tensor

from ...operators import register_operator
from ..forms import Window
from ..inputs import SIMPLICIAL_ARGUMENTS, SimplicialInputs, from_flat
from .launch import LARGEST_SECOND_WINDOW, LARGEST_VECTOR, launch_backward, launch_forward, shared_arguments
from .rows import is_interpreted, triton


KERNEL_DTYPES = [torch.float32, torch.float16] if is_interpreted else [torch.float32, torch.bfloat16, torch.float16]


def triton_unavailable(query: Tensor, second: Window | None = None) -> str | None:
    """The reason why the Triton kernels cannot serve these queries and this second window, or None if they can."""
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


def forward(*flat) -> tuple[Tensor, Tensor]:
    """Output (B, H, Q, D) and natural log-sum-exp (B, H, Q) in float32, which is -inf where nothing is seen."""
    return launch_forward(shared_arguments(from_flat(*flat)))


def fake_forward(query, *_):
    """Empty outputs (B, H, Q, D) and log-sum-exps (B, H, Q)."""
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    return output, query.new_empty(query.shape[:3], dtype=torch.float32)


def backward(output_grad: Tensor, log_sum: Tensor, delta: Tensor, *flat) -> tuple[Tensor, ...]:
    """The gradients of the five states and of the offset biases (empty without them).

    Args:
        delta: (B, H, Q) in float32, the sum of output times its gradient, less the gradient of `log_sum`.
    """
    inputs = from_flat(*flat)
    *gradients, bias_grad = launch_backward(shared_arguments(inputs), output_grad, log_sum, delta)
    bias = inputs.offset_bias
    return *gradients, inputs.query.new_empty(0) if bias is None else bias_grad.to(bias.dtype)


def fake_backward(output_grad: Tensor, log_sum: Tensor, delta: Tensor, *flat) -> tuple[Tensor, ...]:
    """Empty gradients of the five states, in their shapes, and of the offset biases, (H, T) or (0,)."""
    gradients = (torch.empty_like(state, memory_format=torch.contiguous_format) for state in flat[:5])
    return *gradients, flat[0].new_empty(0) if flat[5] is None else torch.empty_like(flat[5])


def differentiate(inputs, outputs, output_grads) -> tuple[Tensor | None, ...]:
    """The backward operator for autograd."""
    (output, log_sum), (output_grad, log_sum_grad) = outputs, output_grads
    delta = (output.float() * output_grad.float()).sum(dim=-1) - log_sum_grad
    *gradients, bias_grad = backward_operator(output_grad, log_sum, delta, *inputs)
    return *gradients, None if inputs[5] is None else bias_grad


backward_operator = register_operator(
    "simplicial_triton_backward",
    f"(Tensor output_grad, Tensor log_sum, Tensor delta, {SIMPLICIAL_ARGUMENTS}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    backward,
    fake_backward,
)
forward_operator = register_operator(
    "simplicial_triton_forward",
    f"({SIMPLICIAL_ARGUMENTS}) -> (Tensor, Tensor)",
    forward,
    fake_forward,
    differentiate,
    keeps_outputs=True,
)


def simplicial_triton(inputs: SimplicialInputs) -> Tensor:
    """2-simplicial attention (B, H, Q, D). The second window, folded into the rows, is better the smaller one.

    Raises:
        ValueError: When `triton_unavailable` has a reason, or types differ.
    """
    states = inputs[:5]
    if any(state.dtype != inputs.query.dtype for state in states):
        raise ValueError(f"The inputs differ in dtype: {[state.dtype for state in states]}.")
    reason = triton_unavailable(inputs.query, inputs.second)
    if reason is not None:
        raise ValueError(f"The Triton path cannot serve this call: {reason}.")
    output, _ = forward_operator(*inputs.flat())
    return output
