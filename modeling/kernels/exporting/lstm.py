"""An LSTM as one operator, which an exported program runs at all lengths: PyTorch's own is unrolled while tracing."""

# Shapes: B batch, T tokens of a row, W width of what enters, S directions, H hidden size of one.

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..operators import register_operator
from .patches import replace_for_onnx


def traced_lstm(
    lstm: nn.LSTM,
    inputs: torch.Tensor,
    state: tuple[torch.Tensor, torch.Tensor] | None,
    is_token: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Runs an LSTM of one layer over the real tokens only, for inference.

    Args:
        lstm: With biases, `batch_first`.
        inputs: (B, T, W).
        state: Hidden state and cell before the first token, (S, B, H) each. Default: zeros.
        is_token: (B, T), False for padding, wherever in a row it lies. Default: there is none.

    Returns:
        The hidden state after each token (B, T, S * H), 0 at padding; the final hidden state and cell, (S, B, H).
    """
    batch, length = inputs.shape[:2]
    if is_token is None:
        is_token = torch.ones(batch, length, dtype=torch.bool, device=inputs.device)
    if state is None:
        zeros = inputs.new_zeros(1 + lstm.bidirectional, batch, lstm.hidden_size)
        state = zeros, zeros
    index = torch.arange(length, device=inputs.device)
    order = ((~is_token).long() * length + index).argsort(dim=1)  # tokens first
    places = torch.empty_like(order).scatter(1, order, index.expand_as(order))
    inputs = inputs.gather(1, order[..., None].expand_as(inputs))
    outputs, hidden, cell = lstm_operator(inputs, is_token.sum(dim=1), *state, lstm._flat_weights, lstm.bidirectional)
    return outputs.gather(1, places[..., None].expand_as(outputs)), hidden, cell


def run_lstm(
    inputs: torch.Tensor,
    lengths: torch.Tensor,
    hidden: torch.Tensor,
    cell: torch.Tensor,
    weights: list[torch.Tensor],
    bidirectional: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reads rows of `lengths` (B) tokens, the first ones of `inputs` (B, T, W).

    Args:
        weights: Of each direction those of inputs, of states, and their biases, as `nn.LSTM` has them.
    """
    rows = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    order: Any = rows.sorted_indices
    back: Any = rows.unsorted_indices
    state = hidden.index_select(1, order), cell.index_select(1, order)
    options = (True, 1, 0.0, False, bidirectional)  # biases, layers, dropout, training
    data, hidden, cell = torch._VF.lstm(rows.data, rows.batch_sizes, state, weights, *options)
    outputs, _ = pad_packed_sequence(PackedSequence(data, *rows[1:]), batch_first=True, total_length=inputs.shape[1])
    return outputs, hidden.index_select(1, back), cell.index_select(1, back)


def empty_states(inputs, lengths, hidden, cell, weights, bidirectional) -> tuple[torch.Tensor, ...]:
    """Empty outputs (B, T, S * H), hidden state and cell (S, B, H)."""
    outputs = inputs.new_empty(*inputs.shape[:2], hidden.shape[0] * hidden.shape[2])
    return outputs, torch.empty_like(hidden), torch.empty_like(cell)


lstm_operator = register_operator(
    "lstm",
    "(Tensor inputs, Tensor lengths, Tensor hidden, Tensor cell, Tensor[] weights, bool bidirectional) "
    "-> (Tensor, Tensor, Tensor)",
    run_lstm,
    empty_states,
)


def onnx_lstm(inputs, lengths, hidden, cell, weights, bidirectional) -> tuple[torch.Tensor, ...]:
    """ONNX's operator LSTM in place of `trine::lstm`: https://onnx.ai/onnx/operators/onnx__LSTM.html.

    Returns:
        Outputs (B, T, S * H), and the final hidden state and cell, (S, B, H) each.
    """
    batch, length = inputs.shape[:2]
    directions, size = hidden.shape[0], hidden.shape[2]

    def stack(kind: int) -> torch.Tensor:
        """One kind of weight of all directions, its gates from PyTorch's order (i, f, g, o) in ONNX's (i, o, f, g)."""
        gates = [weight.unflatten(0, (4, size)) for weight in weights[kind::4]]
        return torch.stack([gate[[0, 3, 1, 2]].flatten(0, 1) for gate in gates])

    biases = torch.cat([stack(2), stack(3)], dim=1)
    outputs, hidden, cell = torch.onnx.ops.symbolic_multi_out(
        "LSTM",
        (inputs.transpose(0, 1), stack(0), stack(1), biases, lengths.int(), hidden, cell),
        attrs={"hidden_size": size, "direction": "bidirectional" if bidirectional else "forward"},
        dtypes=(inputs.dtype,) * 3,
        shapes=((length, directions, batch, size), *[(directions, batch, size)] * 2),
    )
    return outputs.permute(2, 0, 1, 3).flatten(2), hidden, cell


replace_for_onnx(traced_lstm, "lstm_operator", onnx_lstm)
