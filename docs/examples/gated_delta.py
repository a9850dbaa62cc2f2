"""The gated delta rule: a state that forgets, and that a token corrects where it errs."""

# Shapes: B batch, H heads, N tokens, C tokens of a chunk, D head size.

import math

import torch
from torch import nn
from torch.nn.functional import normalize, softplus

from trine import KindField, StateAttention, register_attention


@register_attention(
    "gated_delta",
    fields={"gated_delta_chunk_size": KindField(64, "Tokens that are computed at once.", minimum=1)},
    source="Yang et al. 2024, arXiv 2412.06464",
    sees="all tokens before it, through a state that forgets",
    cost="O(n)",
    cache="one matrix a head",
)
class GatedDeltaAttention(StateAttention):
    """S_t = a_t S_(t-1) + b_t k_t (v_t - a_t S_(t-1)' k_t)', and reads S_t' q_t: the rule of the paper.

    Decay a and step b are of each token and head; queries and keys have length 1. The paper's layer has, besides, a
    short convolution, a norm and a gate.
    """

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        heads = config.num_attention_heads
        self.decay_proj = nn.Linear(config.hidden_size, heads, bias=False)
        self.step_proj = nn.Linear(config.hidden_size, heads, bias=False)
        self.decay_bias = nn.Parameter(torch.empty(heads))
        self.log_rate = nn.Parameter(torch.empty(heads))

    def initialize(self):
        super().initialize()
        nn.init.constant_(self.decay_bias, -4.6)  # a token then forgets 1 % to 15 %
        nn.init.uniform_(self.log_rate, 0, math.log(16))

    def inputs(self, hidden_states, query, key, value):
        """Queries, keys, values (B, H, N, D), logarithms of decays, and steps (B, H, N): all 0 changes no state."""
        log_decay = -self.log_rate.exp() * softplus(self.decay_proj(hidden_states) + self.decay_bias)
        step = self.step_proj(hidden_states).sigmoid()
        query = normalize(query, dim=-1) * self.scaling
        return query, normalize(key, dim=-1), value, log_decay.transpose(1, 2), step.transpose(1, 2)

    def scan(self, state, *inputs):
        dtype = torch.promote_types(inputs[0].dtype, torch.float32)
        chunks = [part.to(dtype).split(self.config.gated_delta_chunk_size, dim=2) for part in inputs]
        shape = (*inputs[0].shape[:2], self.head_dim, self.head_dim)
        outputs, (memory,) = [], state or (inputs[0].new_zeros(shape, dtype=dtype),)
        for chunk in zip(*chunks, strict=True):
            output, memory = read_chunk(memory, *chunk)
            outputs.append(output)
        return torch.cat(outputs, dim=2), (memory,)


def read_chunk(memory, query, key, value, log_decay, step):
    """Reads C tokens at once: outputs (B, H, C, D), and the next memory (B, H, D, D)."""
    since = log_decay.cumsum(dim=-1)  # (B, H, C): how much each token sees the old memory decayed
    later = torch.ones(*since.shape[-1:] * 2, dtype=torch.bool, device=key.device).triu(1)
    decay = (since[..., :, None] - since[..., None, :]).masked_fill(later, -math.inf).exp()  # (B, H, C, C)
    since, step = since.exp()[..., None], step[..., None]
    # Each token corrects what memory and the corrections before it say of its key: a triangular system.
    errors = value - since * (key @ memory)
    overlap = step * decay * (key @ key.mT)
    corrections = torch.linalg.solve_triangular(overlap, step * errors, upper=False, unitriangular=True)
    output = since * (query @ memory) + (decay * (query @ key.mT)) @ corrections
    left = decay[..., -1, :, None]  # of each correction after the last token
    return output, since[..., -1:, :] * memory + (left * key).mT @ corrections
