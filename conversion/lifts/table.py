"""The lifts by kind."""

from .base import Lift
from .deeper import DeeperLift
from .encoder_decoder import EncoderDecoderLift
from .longer import LongerLift
from .simplicial import SimplicialLift
from .sliding import SlidingLift
from .sparse import SparseLift


LIFTS: dict[str, type[Lift]] = {
    lift.kind: lift for lift in (SimplicialLift, SlidingLift, SparseLift, DeeperLift, LongerLift, EncoderDecoderLift)
}
