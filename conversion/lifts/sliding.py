"""Full attention becomes sliding-window attention."""

from dataclasses import dataclass, field

from .kinds import KindLift


@dataclass
class SlidingLift(KindLift):
    """Makes `full` layers `sliding`, with the same weights: the same function of texts that the window holds."""

    kind = "sliding"
    becomes = "full layers see `sliding_window` tokens"
    stays = "up to the window"
    field_name = "attention_types"
    target = "sliding"
    read_fields = ("sliding_window",)

    sliding_window: int | None = field(
        default=None,
        metadata={"help": "Tokens that a token sees, itself included; in an encoder this many to each side."},
    )
