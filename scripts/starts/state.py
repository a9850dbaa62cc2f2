"""A layer that reads a text from left to right through a state: a sum of outer products that fades."""

import torch
from torch import nn

from trine import StateAttention, register_attention


@register_attention("start")
class Start(StateAttention):
    """`state = gate * state + key value^T`, `output = query^T state`, with a gate for each token and head."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.gate_proj = nn.Linear(config.hidden_size, config.num_attention_heads)

    def inputs(self, hidden_states, query, key, value):
        """Tells what each token brings: tensors (batch, heads, tokens, ...)."""
        gate = (self.gate_proj(hidden_states) + 2.0).sigmoid().transpose(1, 2)
        return query, key * self.scaling, value, gate

    def without_padding(self, inputs, is_token):
        """Inputs with which padding leaves the state as it is: nothing is added, and nothing fades."""
        query, key, value, gate = inputs
        return query, key * is_token[..., None], value, torch.where(is_token, gate, torch.ones_like(gate))

    def scan(self, state, *inputs):
        """Reads tokens one after the other; returns outputs (batch, heads, tokens, head size) and the next state."""
        query, key, value, gate = inputs
        memory = torch.zeros_like(key[:, :, 0, :, None] * value[:, :, 0, None, :]) if state is None else state[0]
        outputs = []
        for token in range(query.shape[2]):
            memory = memory * gate[:, :, token, None, None] + key[:, :, token, :, None] * value[:, :, token, None, :]
            outputs.append((query[:, :, token, :, None] * memory).sum(dim=2))
        return torch.stack(outputs, dim=2), (memory,)
