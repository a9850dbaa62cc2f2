"""Fewer layers: those that are chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...configuration.configuration_trine import TrineConfig
from .base import StackLift
from .layers import keep_layers


@dataclass
class ShallowerLift(StackLift):
    """Keeps the chosen layers of a stack alone, to be trained on.

    The first layers compute what they computed; what follows them is another function. Without a last norm, as in
    post-norm models, the states of such a stack are those of its last layer in the whole model.
    Source: Shleifer and Rush 2020, arXiv 2010.13002, section 3.
    """

    kind = "shallower"
    becomes = "a stack keeps some of its layers alone"
    stays = "the weights of the layers that stay, and of the first ones what they compute"
    source = "Shleifer and Rush 2020, arXiv 2010.13002"
    keeps_function = False

    layers: list[int] | None = field(
        default=None, metadata={"help": "Indices of the layers to keep, from 0, in their new order: 0 1 2 3 4 5."}
    )

    def change(self, config: TrineConfig) -> Sequence[int]:
        """Keeps the chosen layers; a `ValueError` if none are named, or one that is not there."""
        count = config.num_hidden_layers
        if not self.layers:
            raise ValueError(f"layers={self.layers} names no layer to keep, of 0 to {count - 1}.")
        for place, index in enumerate(self.layers):
            if not 0 <= index < count:
                raise ValueError(f"layers[{place}]={index} is no layer of the model, which has 0 to {count - 1}.")
        keep_layers(config, self.layers)
        return self.layers
