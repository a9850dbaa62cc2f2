"""The position encodings by name."""

from ...configuration.lazy_choices import LazyChoices, later
from .base import PositionEncoding
from .rope import make_rotary


POSITIONS = LazyChoices(
    "position_type",
    {
        "sinusoidal": later(".sinusoidal", "SinusoidalEncoding"),
        "learned": later(".learned", "LearnedEncoding"),
        "rope": make_rotary,
        "relative": later(".relative", "RelativeEncoding"),
        "none": PositionEncoding,
    },
    package=__package__,
)
