"""A router by cosines: a few features of a token, compared by their direction with a vector of each expert."""

import torch
from torch import nn
from torch.nn.functional import normalize

from trine import KindField, TrineRouter, register_router


@register_router(
    "cosine",
    fields={
        "cosine_size": KindField(16, "Features that are compared; half the experts in the paper.", minimum=1),
        "cosine_temperature": KindField(0.3, "Where the learned temperature begins.", above=0),
    },
    source="Chi et al. 2022, arXiv 2204.09179",
)
class CosineRouter(TrineRouter):
    """softmax over cosines, divided by a learned temperature"""

    def __init__(self, config):
        super().__init__(config)
        self.proj = nn.Linear(config.hidden_size, config.cosine_size, bias=False)
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.cosine_size))
        self.log_temperature = nn.Parameter(torch.empty(()))

    def initialize(self):
        super().initialize()
        nn.init.constant_(self.log_temperature, torch.tensor(self.config.cosine_temperature).log().item())

    def logits(self, hidden_states):
        cosines = normalize(self.proj(hidden_states), dim=-1) @ normalize(self.weight, dim=-1).T
        return cosines / self.log_temperature.exp()

    def scores(self, router_logits):
        return router_logits.softmax(dim=-1, dtype=torch.promote_types(router_logits.dtype, torch.float32))
