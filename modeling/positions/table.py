"""The position encodings by name."""

from ...configuration.choices import Choices
from .base import PositionEncoding
from .learned import LearnedEncoding
from .relative import RelativeEncoding
from .rope import make_rotary
from .sinusoidal import SinusoidalEncoding


POSITIONS = Choices(
    "position_type",
    {
        "sinusoidal": SinusoidalEncoding,
        "learned": LearnedEncoding,
        "rope": make_rotary,
        "relative": RelativeEncoding,
        "none": PositionEncoding,
    },
)
