"""2-simplicial attention in plain PyTorch, chunk by chunk, with a backward pass that computes the weights again."""

# Shapes: as in `simplicial_chunks.py`.

import torch

from ..exporting.patches import replace_for_onnx
from ..operator_names import free_name
from .chunks import Chunk, ChunkedProblem
from .eager import simplicial_eager
from .forms import Reach


def simplicial_chunked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    second_key: torch.Tensor,
    second_value: torch.Tensor,
    offset_bias: torch.Tensor | None = None,
    segments: torch.Tensor | None = None,
    *,
    first: Reach,
    second: Reach,
    form: str,
    scale: float,
) -> torch.Tensor:
    """2-simplicial attention on any device, in memory that does not grow with the windows' product.

    Token i of the queries sees the pairs (j, k) of its two windows. Its logits are
    `scale * <compose(q_i, k'_k), k_j> + offset_bias[k - i]`, one softmax runs over all pairs, and the output is the
    weighted sum of `v_j * v'_k`. The last Q tokens of both key axes are the queries' own.

    Cost: 4 * D * pairs multiply-adds forward, 12 * D * pairs backward; beside the tensors themselves, one block of
    logits (`BLOCK_LOGITS`).

    Args:
        query: (B, H, Q, D).
        key: (B, G, K, D), as is `value`.
        second_key: (B, G, M, D), as is `second_value`.
        offset_bias: (H, size of the second window), from its left end, or None.
        segments: (B, max(K, M)), aligned with the last tokens: tokens see their own segment only, and 0 is padding,
            whose output is 0. None if all are one.
        first: Reach of the window of `key` and `value`.
        second: Reach of the window of `second_key` and `second_value`.
        form: A name in `FORMS`.
        scale: Factor on the logits.

    Returns:
        (B, H, Q, D).

    Source: Roy et al. 2025, Fast and Simplex, arXiv 2507.02754, equations 5 to 7.
    """
    reaches = [*first, *second]
    return chunked_operator(query, key, value, second_key, second_value, offset_bias, segments, reaches, form, scale)


@torch.library.custom_op(free_name("simplicial_chunked"), mutates_args=())
def chunked_operator(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    second_key: torch.Tensor,
    second_value: torch.Tensor,
    offset_bias: torch.Tensor | None,
    segments: torch.Tensor | None,
    reaches: list[int],
    form: str,
    scale: float,
) -> torch.Tensor:
    problem = ChunkedProblem(query, key, value, second_key, second_value, offset_bias, segments, reaches, form, scale)
    output = torch.empty_like(problem.query)
    for chunk in problem.chunks():
        mixed = torch.bmm(problem.weights(problem.compose(chunk), chunk), problem.value[chunk.heads, chunk.keys])
        windows = problem.windows(problem.second_value, chunk)
        mixed = mixed.view(len(windows), problem.repeat, *windows.shape[2:])
        output[chunk.heads, :, chunk.queries] = (mixed * windows).sum(dim=-2)
    return problem.clear_padding(output).view(query.shape)


@torch.library.custom_op(free_name("simplicial_chunked_backward"), mutates_args=())
def chunked_backward_operator(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    second_key: torch.Tensor,
    second_value: torch.Tensor,
    offset_bias: torch.Tensor | None,
    segments: torch.Tensor | None,
    reaches: list[int],
    form: str,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the first six arguments; that of a missing bias is empty."""
    problem = ChunkedProblem(query, key, value, second_key, second_value, offset_bias, segments, reaches, form, scale)
    grads = ChunkedGradients(problem)
    output_grad = problem.clear_padding(problem.by_group(grad))
    for chunk in problem.chunks():
        grads.add(chunk, output_grad[chunk.heads, :, chunk.queries, None])
    own = slice(problem.padding[0], problem.padding[0] + problem.num_seconds)
    bias_grad = query.new_empty(0)
    if offset_bias is not None:
        bias_grad = grads.bias.view(problem.batch, *offset_bias.shape).sum(dim=0).to(offset_bias.dtype)
    return (
        grads.query.view(query.shape),
        grads.key.view(key.shape).to(key.dtype),
        grads.value.view(value.shape).to(value.dtype),
        grads.second_key[:, own].reshape(second_key.shape).to(second_key.dtype),
        grads.second_value[:, own].reshape(second_value.shape).to(second_value.dtype),
        bias_grad,
    )


class ChunkedGradients:
    """What the backward pass has added up so far; keys and values in float32 at least."""

    def __init__(self, problem: ChunkedProblem):
        self.problem = problem
        dtype = torch.promote_types(problem.query.dtype, torch.float32)
        self.query = torch.empty_like(problem.query)
        self.key, self.value = torch.zeros_like(problem.key, dtype=dtype), torch.zeros_like(problem.value, dtype=dtype)
        self.second_key = torch.zeros_like(problem.second_key, dtype=dtype)
        self.second_value = torch.zeros_like(problem.second_value, dtype=dtype)
        self.block = problem.make_block()
        window, size = problem.second.size, problem.query.shape[-1]
        shape = (problem.heads, problem.length, problem.length + window, size)
        self.skewed = torch.zeros(shape, dtype=dtype, device=problem.query.device)  # 0 beyond the windows
        heads = problem.query.shape[:2]
        self.bias = torch.zeros(*heads, problem.second.size, dtype=dtype, device=problem.query.device)

    def add(self, chunk: Chunk, output_grad: torch.Tensor) -> None:
        """Adds one chunk's share, given the gradient (N, R, C, 1, D) of its output."""
        problem, form = self.problem, self.problem.form
        key, value = problem.key[chunk.heads, chunk.keys], problem.value[chunk.heads, chunk.keys]
        second_keys = problem.windows(problem.second_key, chunk)
        second_values = problem.windows(problem.second_value, chunk)
        composed = problem.compose(chunk)
        weights = problem.weights(composed, chunk)
        blocks = (len(key), problem.repeat, *second_keys.shape[2:])  # (N, R, C, T, D)
        mixed_grad = (output_grad * second_values).flatten(1, 3)
        self.value[chunk.heads, chunk.keys] += torch.bmm(weights.transpose(1, 2), mixed_grad)
        mixed = torch.bmm(weights, value).view(blocks)
        self.second_value[chunk.heads, chunk.seconds] += self.shear(mixed * output_grad)

        weight_grad = problem.multiply(mixed_grad, value, self.block)
        logit_grad = softmax_backward_(weight_grad.view(*blocks[:3], -1), weights).view_as(weights)
        if problem.bias is not None:
            self.bias[chunk.heads] += logit_grad.view(*blocks[:4], -1).sum(dim=(2, 4))
        self.key[chunk.heads, chunk.keys] += torch.bmm(logit_grad.transpose(1, 2), composed)
        composed_grad = torch.bmm(logit_grad, key).view(blocks) * problem.scale
        query = problem.query[chunk.heads, :, chunk.queries, None]
        query_grad, second_grad = form.compose_vjp(query, second_keys, composed_grad)
        self.query[chunk.heads, :, chunk.queries] = query_grad.sum(dim=-2)
        self.second_key[chunk.heads, chunk.seconds] += self.shear(second_grad)

    def shear(self, rows: torch.Tensor) -> torch.Tensor:
        """Adds what queries give to their second windows, (N, R, C, T, D), up by token, (N, C + T - 1, D)."""
        length, window = rows.shape[2:4]
        skewed = self.skewed[: len(rows), :length]
        torch.sum(rows, dim=1, dtype=skewed.dtype, out=skewed[:, :, :window])
        tokens = self.skewed.shape[1] + window - 1
        skewed = skewed.flatten(1, 2)[:, : length * tokens].unflatten(1, (length, tokens))
        return skewed.sum(dim=1)[:, : length + window - 1]


def softmax_backward_(grad: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Turns the gradient of a softmax over the last axis into that of the logits, in place."""
    return torch.ops.aten._softmax_backward_data.out(grad, weights.view_as(grad), -1, grad.dtype, grad_input=grad)


@chunked_operator.register_fake
def _(query, key, value, second_key, second_value, offset_bias, segments, reaches, form, scale):
    return torch.empty_like(query, memory_format=torch.contiguous_format)


@chunked_backward_operator.register_fake
def _(grad, query, key, value, second_key, second_value, offset_bias, segments, reaches, form, scale):
    states = [
        torch.empty_like(source, memory_format=torch.contiguous_format)
        for source in (query, key, value, second_key, second_value)
    ]
    return (*states, query.new_empty(0) if offset_bias is None else torch.empty_like(offset_bias))


def save_inputs(ctx, inputs, output) -> None:
    *tensors, ctx.reaches, ctx.form, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def run_backward(ctx, grad):
    *grads, bias_grad = chunked_backward_operator(grad, *ctx.saved_tensors, ctx.reaches, ctx.form, ctx.scale)
    return *grads, bias_grad if ctx.needs_input_grad[5] else None, None, None, None, None


chunked_operator.register_autograd(run_backward, setup_context=save_inputs)


def plain_simplicial(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    second_key: torch.Tensor,
    second_value: torch.Tensor,
    offset_bias: torch.Tensor | None,
    segments: torch.Tensor | None,
    reaches: list[int],
    form: str,
    scale: float,
) -> torch.Tensor:
    """What `trine::simplicial_chunked` computes, in the memory of `simplicial_eager`."""
    states = (query, key, value, second_key, second_value)
    windows = {"first": Reach(*reaches[:2]), "second": Reach(*reaches[2:])}
    return simplicial_eager(*states, offset_bias, segments, **windows, form=form, scale=scale)[0]


replace_for_onnx(simplicial_chunked, "chunked_operator", plain_simplicial)
