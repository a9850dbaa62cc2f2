"""The lifts by kind."""

from .lift_base import Lift
from .lift_simplicial import SimplicialLift


LIFTS: dict[str, type[Lift]] = {lift.kind: lift for lift in (SimplicialLift,)}
