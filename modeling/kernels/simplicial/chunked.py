"""2-simplicial attention in plain PyTorch, chunk by chunk; the backward pass computes long texts' weights again."""

# Shapes: as in `chunks.py`.

import torch
from transformers.utils.import_utils import is_tracing

from ..exporting.patches import replace_for_onnx
from ..operators import register_operator
from .chunks import KEPT_BYTES, Chunk, ChunkBlocks, ChunkedProblem, kept_size
from .eager import simplicial_eager
from .inputs import SIMPLICIAL_ARGUMENTS, SimplicialInputs, from_flat
from .step import simplicial_step


def simplicial_chunked(inputs: SimplicialInputs) -> torch.Tensor:
    """2-simplicial attention (B, H, Q, D) on any device, in memory that does not grow with the windows' product.

    Token i of the queries sees the pairs (j, k) of its two windows. Its logits are
    `scale * <compose(q_i, k'_k), k_j> + offset_bias[k - i]`, one softmax runs over all pairs, and the output is the
    weighted sum of `v_j * v'_k`.

    Cost: 4 * D * pairs multiply-adds forward, 12 * D * pairs backward; beside the tensors themselves, two blocks of
    logits (`BLOCK_LOGITS`). A short text that trains keeps its weights (`KEPT_BYTES`): 8 * D * pairs backward.

    Source: Roy et al. 2025, Fast and Simplex, arXiv 2507.02754, equations 5 to 7.
    """
    if inputs.query.shape[2] == 1:
        return simplicial_step(inputs)
    return keeping_operator(*inputs.flat())[0] if keeps_weights(inputs) else chunked_operator(*inputs.flat())


def keeps_weights(inputs: SimplicialInputs) -> bool:
    """Whether the weights are kept for a backward pass."""
    size = inputs.query.element_size() * kept_size(inputs)
    trains = torch.is_grad_enabled() and any(state is not None and state.requires_grad for state in inputs[:6])
    return trains and not is_tracing(inputs.query) and size <= KEPT_BYTES


def chunked_forward(*flat) -> torch.Tensor:
    """Computes the operator: outputs (B, H, Q, D), chunk by chunk."""
    problem = ChunkedProblem(from_flat(*flat))
    return mix_chunks(problem, *problem.make_blocks())


def keeping_forward(*flat) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the operator, and returns beside its outputs the weights of each chunk and what they mix."""
    inputs = from_flat(*flat)
    kept = inputs.query.new_empty(kept_size(inputs))
    blocks = ChunkBlocks(kept, keeps=True)
    return mix_chunks(ChunkedProblem(inputs), blocks, blocks), kept


def mix_chunks(problem: ChunkedProblem, logits: ChunkBlocks, rows: ChunkBlocks) -> torch.Tensor:
    """Outputs (B, H, Q, D); the weights of each chunk, and the first values that they mix, are left in the blocks."""
    output = torch.empty_like(problem.query)
    for chunk in problem.chunks():
        weights = problem.weights(problem.compose(chunk), chunk, logits)
        mixed = rows.multiply(weights, problem.value[chunk.heads, chunk.keys])
        windows = problem.windows(problem.second_value, chunk)
        mixed = mixed.view(len(windows), problem.repeat, *windows.shape[2:])
        output[chunk.heads, :, chunk.queries] = (mixed * windows).sum(dim=-2)
    return problem.clear_padding(output).view(problem.shape)


def chunked_backward(grad: torch.Tensor, *flat) -> tuple[torch.Tensor, ...]:
    """Gradients of the first six inputs, in their shapes; that of a missing bias is empty, (0,)."""
    return differentiate_chunks(grad, from_flat(*flat), None)


def keeping_backward(grad: torch.Tensor, kept: torch.Tensor, *flat) -> tuple[torch.Tensor, ...]:
    """Computes the gradients of `chunked_backward` from what `keeping_forward` kept."""
    return differentiate_chunks(grad, from_flat(*flat), ChunkBlocks(kept, keeps=True))


def differentiate_chunks(
    grad: torch.Tensor, inputs: SimplicialInputs, kept: ChunkBlocks | None
) -> tuple[torch.Tensor, ...]:
    """Gradients of the first six inputs, chunk by chunk."""
    problem = ChunkedProblem(inputs)
    grads = ChunkedGradients(problem, kept)
    output_grad = problem.clear_padding(problem.by_group(grad))
    for chunk in problem.chunks():
        grads.add(chunk, output_grad[chunk.heads, :, chunk.queries, None])
    own = slice(problem.padding[0], problem.padding[0] + problem.num_seconds)
    bias_grad = inputs.query.new_empty(0)
    if inputs.offset_bias is not None:
        bias_grad = grads.bias.view(problem.batch, *inputs.offset_bias.shape).sum(dim=0).to(inputs.offset_bias.dtype)
    found = grads.query, grads.key, grads.value, grads.second_key[:, own], grads.second_value[:, own]
    states = zip(found, inputs[:5], strict=True)
    return *(grad.reshape(state.shape).to(state.dtype) for grad, state in states), bias_grad


class ChunkedGradients:
    """The sums of gradients in a backward pass; keys and values in float32 at least."""

    def __init__(self, problem: ChunkedProblem, kept: ChunkBlocks | None):
        self.problem, self.kept = problem, kept
        dtype = torch.promote_types(problem.query.dtype, torch.float32)
        self.query = torch.empty_like(problem.query)
        self.key, self.value = torch.zeros_like(problem.key, dtype=dtype), torch.zeros_like(problem.value, dtype=dtype)
        self.second_key = torch.zeros_like(problem.second_key, dtype=dtype)
        self.second_value = torch.zeros_like(problem.second_value, dtype=dtype)
        self.logits, self.rows = problem.make_blocks()  # of the gradients
        self.blocks = problem.make_blocks() if kept is None else (kept, kept)  # of weights and of what they mix
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
        weights, mixed = self.weigh(composed, value, chunk)
        windows = (len(key), problem.repeat, *second_keys.shape[2:])  # (N, R, C, T, D)
        mixed_grad = (output_grad * second_values).flatten(1, 3)
        self.value[chunk.heads, chunk.keys] += torch.bmm(weights.transpose(1, 2), mixed_grad)
        self.second_value[chunk.heads, chunk.seconds] += self.unskew(mixed.view(windows) * output_grad)

        weight_grad = self.logits.multiply(mixed_grad, value.transpose(1, 2))
        logit_grad = softmax_backward_(weight_grad.view(*windows[:3], -1), weights).view_as(weights)
        if problem.bias is not None:
            self.bias[chunk.heads] += logit_grad.view(*windows[:4], -1).sum(dim=(2, 4))
        self.key[chunk.heads, chunk.keys] += torch.bmm(logit_grad.transpose(1, 2), composed)
        composed_grad = self.rows.multiply(logit_grad, key).view(windows).mul_(problem.scale)
        query = problem.query[chunk.heads, :, chunk.queries, None]
        query_grad, second_grad = form.compose_vjp(query, second_keys, composed_grad)
        self.query[chunk.heads, :, chunk.queries] = query_grad.sum(dim=-2)
        self.second_key[chunk.heads, chunk.seconds] += self.unskew(second_grad)

    def weigh(self, composed: torch.Tensor, value: torch.Tensor, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights (N, R * C * T, W) of a chunk, and the first values (N, R * C * T, D) that they mix."""
        logits, rows = self.blocks
        if self.kept is None:
            weights = self.problem.weights(composed, chunk, logits)
            return weights, rows.multiply(weights, value)
        shape = composed.shape
        return logits.take(*shape[:2], value.shape[1]), rows.take(*shape)

    def unskew(self, rows: torch.Tensor) -> torch.Tensor:
        """Sums by token, (N, C + T - 1, D), what queries give to their second windows, (N, R, C, T, D).

        Token s of a window is token i + s of the text: rows are skewed by reading them in another width, as for
        relative positions in Huang et al. 2018, Music Transformer, arXiv 1809.04281, section 3.4.1.
        """
        length, window = rows.shape[2:4]
        skewed = self.skewed[: len(rows), :length]
        torch.sum(rows, dim=1, dtype=skewed.dtype, out=skewed[:, :, :window])
        tokens = self.skewed.shape[1] + window - 1
        skewed = skewed.flatten(1, 2)[:, : length * tokens].unflatten(1, (length, tokens))
        return skewed.sum(dim=1)[:, : length + window - 1]


def softmax_backward_(grad: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Turns the gradient of a softmax over the last axis of (..., W) into that of the logits, in place."""
    return torch.ops.aten._softmax_backward_data.out(grad, weights.view_as(grad), -1, grad.dtype, grad_input=grad)


def empty_output(query: torch.Tensor, *others) -> torch.Tensor:
    """Empty outputs (B, H, Q, D)."""
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def empty_output_and_kept(*flat) -> tuple[torch.Tensor, torch.Tensor]:
    """Empty outputs (B, H, Q, D), and memory for what is kept."""
    return empty_output(*flat), flat[0].new_empty(kept_size(from_flat(*flat)))


def empty_gradients(grad: torch.Tensor, *flat) -> tuple[torch.Tensor, ...]:
    """Empty gradients of the five states, in their shapes, and of the offset biases, (H, T) or (0,)."""
    states = (torch.empty_like(state, memory_format=torch.contiguous_format) for state in flat[:5])
    return *states, flat[0].new_empty(0) if flat[5] is None else torch.empty_like(flat[5])


def differentiate_chunked(inputs, outputs, output_grads) -> tuple[torch.Tensor | None, ...]:
    """The backward operator for autograd."""
    *grads, bias_grad = chunked_backward_operator(*output_grads, *inputs)
    return *grads, None if inputs[5] is None else bias_grad


def differentiate_kept(inputs, outputs, output_grads) -> tuple[torch.Tensor | None, ...]:
    """The backward operator for autograd, from what was kept."""
    *grads, bias_grad = keeping_backward_operator(output_grads[0], outputs[1], *inputs)
    return *grads, None if inputs[5] is None else bias_grad


chunked_backward_operator = register_operator(
    "simplicial_chunked_backward",
    f"(Tensor grad, {SIMPLICIAL_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    chunked_backward,
    empty_gradients,
)
chunked_operator = register_operator(
    "simplicial_chunked",
    f"({SIMPLICIAL_ARGUMENTS}) -> Tensor",
    chunked_forward,
    empty_output,
    differentiate_chunked,
)
keeping_backward_operator = register_operator(
    "simplicial_kept_backward",
    f"(Tensor grad, Tensor kept, {SIMPLICIAL_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    keeping_backward,
    lambda grad, kept, *flat: empty_gradients(grad, *flat),
)
keeping_operator = register_operator(
    "simplicial_kept",
    f"({SIMPLICIAL_ARGUMENTS}) -> (Tensor, Tensor)",
    keeping_forward,
    empty_output_and_kept,
    differentiate_kept,
    keeps_outputs=True,
)


def plain_simplicial(*flat) -> torch.Tensor:
    """Computes `trine::simplicial_chunked`, (B, H, Q, D), in the memory of `simplicial_eager`."""
    return simplicial_eager(from_flat(*flat))[0]


replace_for_onnx(simplicial_chunked, "chunked_operator", plain_simplicial)
