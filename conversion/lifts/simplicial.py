"""Dot-product attention becomes 2-simplicial attention."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...configuration.configuration_trine import TrineConfig
from .kinds import KindLift


@dataclass
class SimplicialLift(KindLift):
    """Makes `full` and `sliding` layers 2-simplicial, with the same queries, keys, values and outputs.

    The second keys and values begin constant, with which the layer is dot-product attention within
    `simplicial_window`: it computes the same where no token saw further.
    Source: Roy et al. 2025, arXiv 2507.02754, for the layer; the beginning is Trine's.
    """

    kind = "simplicial"
    becomes = "full or sliding layers become 2-simplicial"
    stays = "up to the window; half of it in an encoder"
    field_name = "attention_types"
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
        """Changes the layers, whose second keys begin constant."""
        if self.attention_dropout is not None:
            config.attention_dropout = self.attention_dropout
        config.simplicial_warm_start = True
        return super().change(config)
