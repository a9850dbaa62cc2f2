"""Positions that add a learned multiple of fixed waves to the embeddings."""

import torch
from torch import nn

from trine import KindField, PositionEncoding, register_position


@register_position("start", fields={"start_base": KindField(10000.0, "Length of the slowest wave.", above=1)})
class Start(PositionEncoding):
    """Sines and cosines, scaled. Override `add_to`, `rotate` or `biases`; leave out the others."""

    def __init__(self, config):
        super().__init__(config)
        self.config = config
        self.scale = nn.Parameter(torch.empty(config.hidden_size))

    def initialize(self):
        """Fills what `__init__` makes: models are made without memory, which comes later."""
        nn.init.ones_(self.scale)

    def add_to(self, inputs_embeds, position_ids):
        """Adds to embeddings (batch, length, hidden) what belongs to positions (batch or 1, length)."""
        half = torch.arange(inputs_embeds.shape[-1] // 2, device=inputs_embeds.device) / (inputs_embeds.shape[-1] // 2)
        angles = position_ids[..., None] / self.config.start_base**half
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1).to(inputs_embeds.dtype)
        return inputs_embeds + self.scale * waves
