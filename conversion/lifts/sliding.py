"""Full attention becomes sliding-window attention."""

from dataclasses import dataclass, field

from ...configuration.configuration_trine import TrineConfig
from .base import LayerLift
from .reach import exact_length


@dataclass
class SlidingLift(LayerLift):
    """Makes `full` layers `sliding`, with the same weights: the same function of texts that the window holds."""

    kind = "sliding"
    becomes = "full layers see `sliding_window` tokens"
    stays = "up to the window"
    field_name = "attention_types"
    sources = ("full",)
    target = "sliding"
    read_fields = ("sliding_window",)

    sliding_window: int | None = field(
        default=None,
        metadata={"help": "Tokens that a token sees, itself included; in an encoder this many to each side."},
    )

    def exact_length(self, before: TrineConfig, after: TrineConfig) -> int | None:
        """The tokens up to which the window holds what was seen before."""
        return exact_length(before, after)
