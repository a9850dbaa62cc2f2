"""The parts of a recurrent model: an LSTM layer that skips padding, and the contexts of a decoder."""

# Shapes: B batch, T tokens of a row, S tokens of the source, H hidden size.

from copy import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from ...configuration.choices import Choices
from ...configuration.configuration_trine_recurrent import TrineRecurrentConfig
from ..kernels.exporting.lstm import traced_lstm


def find_tokens(
    attention_mask: torch.Tensor | None, shape: torch.Size, name: str
) -> PackedSequence | torch.Tensor | None:
    """Finds the real tokens of a batch, in the order in which an LSTM visits them.

    Reads the number of tokens in each row on the host, which packing needs: one synchronisation.

    Args:
        attention_mask: (B, T), 0 for padding, wherever in a row it lies.
        shape: (B, T).
        name: What the mask is called in messages.

    Returns:
        Indices into the flattened batch, packed; None where there is no padding; in an exported program, whose graph
        reads nothing on the host, booleans (B, T) for `traced_lstm`.

    Raises:
        ValueError: If the mask has another shape, or a row without tokens.
    """
    if attention_mask is None:
        return None
    if attention_mask.shape != shape:
        raise ValueError(f"{name} has shape {tuple(attention_mask.shape)}, but the tokens have {tuple(shape)}.")
    is_token = attention_mask != 0
    if torch.compiler.is_exporting():
        return is_token
    lengths = is_token.sum(dim=1).cpu()
    if (lengths == 0).any():
        raise ValueError(f"{name}[{int(lengths.argmin())}] has no token, of which an LSTM needs one at least.")
    if (lengths == shape[1]).all():
        return None
    tokens_first = is_token.int().argsort(dim=1, descending=True, stable=True)
    row_starts = torch.arange(shape[0], device=tokens_first.device)[:, None] * shape[1]
    return pack_padded_sequence(tokens_first + row_starts, lengths, batch_first=True, enforce_sorted=False)


def written_out(lstm: nn.LSTM) -> nn.LSTM:
    """The LSTM itself, or, if torchao has quantised its weights, a copy with numbers, which its kernel takes."""
    if not any(hasattr(weight, "qdata") for weight in lstm.parameters()):
        return lstm
    plain = copy(lstm)
    weights: Any = [getattr(lstm, name) for name in lstm._flat_weights_names]
    plain._flat_weights = [weight.dequantize() if hasattr(weight, "qdata") else weight for weight in weights]
    return plain


class TrineRecurrentLayer(GradientCheckpointingLayer):
    """One LSTM layer, in one direction or in both.

    Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    Args:
        config: Sizes and dropout.
        input_size: Width of what enters.
        bidirectional: Whether it reads in both directions, with half of the hidden size each.
    """

    def __init__(self, config: TrineRecurrentConfig, input_size: int, bidirectional: bool = False):
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout)
        hidden_size = config.hidden_size // 2 if bidirectional else config.hidden_size
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True, bidirectional=bidirectional)

    def forward(
        self,
        hidden_states: torch.Tensor,
        hidden: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        tokens: PackedSequence | torch.Tensor | None = None,
        context: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reads a batch; all arguments are positional, for the sake of reentrant gradient checkpointing.

        Args:
            hidden_states: (B, T, width).
            hidden: Hidden state before the first token, (B, H). Default: zero, as for `cell`.
            cell: (B, H).
            tokens: Where the real tokens are, from `find_tokens`.
            context: (B, width), what is fed beside every token.

        Returns:
            The hidden state after each token (B, T, H), 0 at padding; the final hidden state (B, H) and cell (B, H),
            the two directions beside each other.
        """
        if context is not None:
            hidden_states = torch.cat([hidden_states, context[:, None].expand(-1, hidden_states.shape[1], -1)], dim=-1)
        inputs = self.dropout(hidden_states)
        state = None if hidden is None or cell is None else (hidden[None].contiguous(), cell[None].contiguous())
        device = inputs.device.type
        if torch.is_autocast_enabled(device):
            # Autocast would do the same on the way; but on some CPUs oneDNN refuses an LSTM that it has cast itself.
            dtype = torch.get_autocast_dtype(device)
            inputs, state = inputs.to(dtype), None if state is None else (state[0].to(dtype), state[1].to(dtype))
        return self.run(inputs, state, tokens)

    def run(
        self,
        inputs: torch.Tensor,
        state: tuple[torch.Tensor, torch.Tensor] | None,
        tokens: PackedSequence | torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Runs the LSTM over the real tokens of `inputs` (B, T, width) only; returns what `forward` does."""
        lstm = written_out(self.lstm)
        if tokens is None and not torch.compiler.is_exporting():
            outputs, (hidden, cell) = lstm(inputs, state)
        elif not isinstance(tokens, PackedSequence):
            outputs, hidden, cell = traced_lstm(lstm, inputs, state, tokens)
        else:
            packed, (hidden, cell) = lstm(tokens._replace(data=inputs.flatten(0, 1)[tokens.data]), state)
            outputs = packed.data.new_zeros(inputs.shape[0] * inputs.shape[1], packed.data.shape[-1])
            outputs = outputs.index_copy(0, tokens.data, packed.data).unflatten(0, inputs.shape[:2])
        return outputs, hidden.transpose(0, 1).flatten(1), cell.transpose(0, 1).flatten(1)


@torch.no_grad()
def initialize_lstm(lstm: nn.LSTM) -> None:
    """Fills an LSTM gate by gate: Glorot for what enters, orthogonal for the way through time, 1 for the forget bias.

    An orthogonal map neither grows nor shrinks what it repeats (Saxe et al. 2014, arXiv 1312.6120), and a forget gate
    that begins open lets gradients through (Jozefowicz et al. 2015). PyTorch's gates are input, forget, cell, output,
    with two biases each that are added; the 1 stands in the first.
    """
    for name, parameter in lstm.named_parameters():
        # A copy is filled: slices of a parameter do not know whether it has been loaded.
        values = torch.zeros_like(parameter, dtype=torch.float32)
        for index, gate in enumerate(values.chunk(4)):
            if name.startswith("weight_ih"):
                init.xavier_uniform_(gate)
            elif name.startswith("weight_hh"):
                init.orthogonal_(gate)
            elif name.startswith("bias_ih") and index == 1:
                gate.fill_(1.0)
        init.copy_(parameter, values)


class FixedContext(nn.Module):
    """The encoder's final hidden state as the context of every target token.

    It enters the decoder beside each token and each prediction, so that the state need not carry it through time.
    Source: Cho et al. 2014, arXiv 1406.1078, section 2.2.
    """

    feeds_decoder = True

    def forward(self, states, encoder_states, summary, encoder_attention_mask) -> tuple[torch.Tensor, None]:
        """Repeats `summary` (B, H) for each target token, (B, T, H). Arguments are those of `DotProductAttention`."""
        return summary[:, None].expand_as(states), None


class DotProductAttention(nn.Module):
    """A context for each token of the target: the encoder's states, weighted by their products with the decoder's.

    Cost O(T * S * H). The context is not fed to the next step (their section 3.3, input feeding), so that all steps of
    teacher forcing run in one call.
    Source: Luong et al. 2015, arXiv 1508.04025, section 3.1.
    """

    feeds_decoder = False

    def forward(
        self,
        states: torch.Tensor,
        encoder_states: torch.Tensor,
        summary: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes contexts.

        Args:
            states: Of the decoder, (B, T, H).
            encoder_states: (B, S, H).
            summary: The hidden state that the encoder ends in, (B, H).
            encoder_attention_mask: (B, S), 0 for padding.

        Returns:
            Contexts (B, T, H), and weights (B, 1, T, S), 0 at padding, which sum to 1.
        """
        scores = states @ encoder_states.transpose(1, 2)
        if encoder_attention_mask is not None:
            scores = scores.masked_fill(encoder_attention_mask[:, None] == 0, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1)
        return weights @ encoder_states, weights[:, None]


# `config.attention` to class.
CONTEXTS = Choices("attention", {"none": FixedContext, "dot": DotProductAttention})
