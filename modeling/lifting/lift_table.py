"""The lifts by kind."""

from .lift_base import Lift
from .lift_deeper import DeeperLift
from .lift_encoder_decoder import EncoderDecoderLift
from .lift_longer import LongerLift
from .lift_simplicial import SimplicialLift
from .lift_sliding import SlidingLift
from .lift_sparse import SparseLift


LIFTS: dict[str, type[Lift]] = {
    lift.kind: lift for lift in (SimplicialLift, SlidingLift, SparseLift, DeeperLift, LongerLift, EncoderDecoderLift)
}
