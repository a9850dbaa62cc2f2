"""More layers, each of which adds nothing at first."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_trine import TrineConfig
from .base import StackLift
from .layers import keep_layers


OUTPUTS = ("o_proj", "down_proj")  # the projections into the residual stream


@dataclass
class DeeperLift(StackLift):
    """Inserts a copy after each chosen layer, whose projections into the residual stream are zero.

    Such a layer is the identity if norms stand before the sub-layers, and those projections have gradients.
    Source: Wu et al. 2024, LLaMA Pro, arXiv 2401.02415, section 3.2.
    """

    kind = "deeper"
    becomes = "layers are followed by copies that add nothing yet, in pre-norm models"
    stays = "everywhere"
    source = "Wu et al. 2024, arXiv 2401.02415"

    num_hidden_layers: int | None = field(
        default=None, metadata={"help": "Layers afterwards; the new ones are spread evenly. Or name them by after."}
    )
    after: list[int] | None = field(
        default=None,
        metadata={"help": "Indices of layers, from 0, each of which a copy follows; twice the same for two copies."},
    )

    def change(self, config: TrineConfig) -> Sequence[int]:
        """Repeats the chosen layers; a `ValueError` for post-norm, where no new layer is the identity."""
        if config.norm_position != "pre":
            raise ValueError(
                f"norm_position={config.norm_position!r} normalises what a new layer passes on, so that none is the "
                "identity; the lift 'deeper' needs norm_position='pre'."
            )
        layers = sorted([*range(config.num_hidden_layers), *self.choose_layers(config.num_hidden_layers)])
        keep_layers(config, layers)
        return layers

    def choose_layers(self, count: int) -> list[int]:
        """The layers that are copied, of `count`."""
        if (self.after is None) == (self.num_hidden_layers is None):
            raise ValueError(
                f"num_hidden_layers={self.num_hidden_layers} and after={self.after}: give one of them, to say "
                "how many layers are new, or after which layers."
            )
        if self.after is not None:
            for place, index in enumerate(self.after):
                if not 0 <= index < count:
                    raise ValueError(f"after[{place}]={index} is no layer of the model, which has 0 to {count - 1}.")
            return self.after
        new = (self.num_hidden_layers or 0) - count
        if new < 1:
            raise ValueError(
                f"num_hidden_layers={self.num_hidden_layers} must be above {count}, the layers there are."
            )
        return [(place + 1) * count // new - 1 if new <= count else place * count // new for place in range(new)]

    @torch.no_grad()
    def fill(self, old: Any, new: Any) -> None:
        """Zeroes the projections of the copies into the residual stream."""
        layers = sorted([*range(len(old.layers)), *self.choose_layers(len(old.layers))])
        for index, layer in enumerate(layers):
            if index and layers[index - 1] == layer:
                silence(new.layers[index])


def silence(layer: nn.Module) -> None:
    """Zeroes the projections of a layer into the residual stream, with their biases.

    Raises:
        ValueError: A mechanism of somebody's own has none of these names.
    """
    for part in ("self_attn", "mlp"):
        names = [name for name, _ in layer.get_submodule(part).named_parameters()]
        if not any(is_output(f"{part}.{name}") for name in names):
            raise ValueError(
                f"{part} is a {type(layer.get_submodule(part)).__name__}, which has none of {list(OUTPUTS)} to be "
                "zero: the lift 'deeper' cannot make a copy that adds nothing."
            )
    for name, parameter in layer.named_parameters():
        if is_output(name):
            parameter.zero_()


def is_output(name: str) -> bool:
    """Whether a parameter is of a projection into the residual stream: its weight or bias, or those of all experts."""
    return name.split(".")[-1].removesuffix("_bias") in OUTPUTS or name.split(".")[-2] in OUTPUTS
