"""The lifts by kind."""

from collections.abc import Iterator, Mapping

from .base import Lift
from .deeper import DeeperLift
from .encoder import EncoderLift
from .encoder_decoder import EncoderDecoderLift
from .kinds import KindLift, kind_lifts
from .longer import LongerLift
from .shallower import ShallowerLift
from .simplicial import SimplicialLift
from .sliding import SlidingLift
from .smaller_vocabulary import SmallerVocabularyLift
from .sparse import SparseLift


OWN: dict[str, type[Lift]] = {
    lift.kind: lift
    for lift in (
        *(SimplicialLift, SlidingLift, SparseLift, DeeperLift, ShallowerLift, LongerLift, EncoderLift),
        *(EncoderDecoderLift, SmallerVocabularyLift),
    )
}


class Lifts(Mapping[str, type[Lift]]):
    """The lifts of `OWN`, and those to other kinds whose rows say what they equal, also to one registered later.

    Raises:
        ValueError: At any use, if such a kind has the name of another lift.
    """

    def all(self) -> dict[str, type[Lift]]:
        """All lifts that there are now."""
        kinds = kind_lifts()
        for name in kinds:
            if name in OWN and not issubclass(OWN[name], KindLift):
                raise ValueError(f"{name!r} is a kind and another lift: register the kind under another name.")
        return {**OWN, **{name: kinds[name] for name in kinds if name not in OWN}}

    def __getitem__(self, kind: str) -> type[Lift]:
        return self.all()[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self.all())

    def __len__(self) -> int:
        return len(self.all())


LIFTS = Lifts()
