"""One learned vector per position, added to the embeddings."""

import torch
from torch import nn

from ...configuration.configuration_trine import TrineConfig
from ..checks.ids import check_ids
from .base import PositionEncoding


class LearnedEncoding(PositionEncoding):
    """Has `max_position_embeddings` positions; a longer sequence is a `ValueError`.

    Source: Devlin et al. 2018, BERT, arXiv 1810.04805.
    """

    def __init__(self, config: TrineConfig):
        super().__init__(config)
        self.num_positions = config.max_position_embeddings
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def add_to(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        check_ids(position_ids, self.num_positions, "position_ids", "max_position_embeddings")
        return inputs_embeds + self.embed_positions(position_ids)
