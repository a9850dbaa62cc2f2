"""Dot-product attention becomes 2-simplicial attention."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_trine import TrineConfig
from ...configuration.kinds import TRILINEAR_KINDS
from ...configuration.patterns import check_choice
from .base import LayerLift, layers_of
from .reach import exact_length


# Those that a constant second key makes the dot product.
EXACT_FORMS = [form for form, kind in TRILINEAR_KINDS.items() if kind.has_unit]


@dataclass
class SimplicialLift(LayerLift):
    """Makes `full` and `sliding` layers 2-simplicial, with the same queries, keys, values and outputs.

    The second keys and values begin constant, with which the layer is dot-product attention within
    `simplicial_window`: it computes the same where no token saw further.
    Source: Roy et al. 2025, arXiv 2507.02754, for the layer; the beginning is Trine's.
    """

    kind = "simplicial"
    becomes = "full or sliding layers become 2-simplicial"
    stays = "up to the window; half of it in an encoder"
    field_name = "attention_types"
    sources = ("full", "sliding")
    target = "simplicial"
    read_fields = ("simplicial_window", "simplicial_second_window", "simplicial_form", "simplicial_offset_bias")

    simplicial_window: int | None = field(
        default=None,
        metadata={
            "help": "First keys that a token sees, itself included. An encoder's window is centred: it computes the "
            "same up to half as many tokens, and beside a sliding_window of w that many are seen with 2 * w + 1."
        },
    )
    simplicial_second_window: int | None = field(
        default=None, metadata={"help": "Second keys that a token sees, likewise; any number is exact."}
    )
    simplicial_form: str | None = field(
        default=None, metadata={"help": "hadamard or complex; rotary positions go with complex."}
    )
    simplicial_offset_bias: bool | None = field(
        default=None, metadata={"help": "Whether each distance of the second key has a learned bias, 0 at first."}
    )
    attention_dropout: float | None = field(
        default=None,
        metadata={"help": "Simplicial layers have none: 0 turns it off in a model that was trained with it."},
    )

    def change(self, config: TrineConfig) -> Sequence[int]:
        """Changes the layers, whose form must be one that a constant second key makes a dot product."""
        if self.attention_dropout is not None:
            config.attention_dropout = self.attention_dropout
        layers = super().change(config)
        check_choice("simplicial_form", config.simplicial_form, EXACT_FORMS)
        config.simplicial_warm_start = True
        return layers

    @torch.no_grad()
    def fill(self, old: Any, new: Any) -> None:
        """Sets the norms of second keys so that these stay constant; `simplicial_warm_start` sets everything else."""
        for index in layers_of(old, new, self.field_name):
            norm = new.get_submodule(f"layers.{index}.self_attn.second_k_norm")
            if isinstance(norm, nn.RMSNorm):
                norm.weight.fill_((1.0 + new.config.norm_eps) ** 0.5)  # the constant has a mean square of 1

    def exact_length(self, before: TrineConfig, after: TrineConfig) -> int | None:
        """The tokens up to which the windows hold what was seen before."""
        return exact_length(before, after)
