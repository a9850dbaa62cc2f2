"""Rotary positions: queries and keys are rotated by an angle that grows with the position."""

from collections.abc import Collection
from copy import copy

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig
from ...configuration.patterns import check_choice
from .base import PositionEncoding


class TrineRotaryEmbedding(PositionEncoding):
    """Cosines and sines of the rotation, with every scaling of transformers (linear, dynamic, YaRN, llama3, ...).

    Names and buffers follow transformers' rotary modules, whose updates and tests rely on them.
    Source: Su et al. 2021, arXiv 2104.09864.
    """

    def __init__(self, config: TrineConfig):
        super().__init__(config)
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        check_choice("rope_parameters['rope_type']", self.rope_type, ["default", *ROPE_INIT_FUNCTIONS])
        if self.rope_type == "default":
            inv_freq, self.attention_scaling = self.compute_default_rope_parameters(config)
        else:
            inv_freq, self.attention_scaling = ROPE_INIT_FUNCTIONS[self.rope_type](config)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)
        self.original_inv_freq = nn.Buffer(inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: TrineConfig, **kwargs) -> tuple[torch.Tensor, float]:
        """Returns the inverse frequencies (rotated size / 2,) in radians a token, and the factor on the waves."""
        size = int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, size, 2, dtype=torch.float) / size
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cosines and sines (batch or 1, length, rotated size) in the dtype of `hidden_states`."""
        angles = position_ids[..., None].float() * self.inv_freq.to(device=hidden_states.device, dtype=torch.float)
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos(), angles.sin()
        if self.attention_scaling != 1.0:
            cos, sin = cos * self.attention_scaling, sin * self.attention_scaling
        return cos.to(hidden_states.dtype), sin.to(hidden_states.dtype)

    def rotate(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cos, sin = self(hidden_states, position_ids)
        return cos[:, None], sin[:, None]


class LayeredRotaryEncoding(PositionEncoding):
    """One rotary embedding for each layer type, such as slow waves for full attention and fast ones for sliding.

    Source: Gemma Team 2025, arXiv 2503.19786, section 2; Warner et al. 2024, ModernBERT, arXiv 2412.13663.
    """

    def __init__(self, config: TrineConfig):
        super().__init__(config)
        self.by_type = nn.ModuleDict()
        for layer_type in dict.fromkeys(config.layer_types):
            of_type = copy(config)
            of_type.rope_parameters = config.rope_parameters_of(layer_type)
            self.by_type[layer_type] = TrineRotaryEmbedding(of_type)

    def rotations(
        self, hidden_states: torch.Tensor, position_ids: torch.Tensor, layer_types: Collection[str]
    ) -> dict[str, tuple[torch.Tensor, ...] | None]:
        return {name: embedding.rotate(hidden_states, position_ids) for name, embedding in self.by_type.items()}  # pyright: ignore[reportCallIssue] a module of that class


ROTARIES = Choices("has_layered_rope", {False: TrineRotaryEmbedding, True: LayeredRotaryEncoding})


def make_rotary(config: TrineConfig) -> PositionEncoding:
    """Builds the rotary positions that `config.rope_parameters` describes."""
    return ROTARIES[config.has_layered_rope](config)


def apply_rotation(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates the first features of each head; the rest, if `cos` is narrower than the head, passes.

    Args:
        states: Queries or keys, (batch, heads, length, head size).
        cos: Cosines, (batch or 1, 1, length, rotated size).
        sin: Sines, likewise.
    """
    rotated_size = cos.shape[-1]
    if rotated_size < states.shape[-1]:
        rotated, passed = states[..., :rotated_size], states[..., rotated_size:]
        return torch.cat((apply_rotation(rotated, cos, sin), passed), dim=-1)
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def rotate_together(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotates queries (B, H, Q, D) and keys (B, G, Q, D) alike; those of one token at once, in half the operations."""
    if query.shape[2] > 1:
        return apply_rotation(query, cos, sin), apply_rotation(key, cos, sin)
    both = apply_rotation(torch.cat((query, key), dim=1), cos, sin)
    return both[:, : query.shape[1]], both[:, query.shape[1] :]
