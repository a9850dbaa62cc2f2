"""The position encodings by name."""

from .learned import LearnedEncoding
from .position_encoding import PositionEncoding
from .relative import RelativeEncoding
from .rope import TrineRotaryEmbedding
from .sinusoidal import SinusoidalEncoding


POSITIONS = {
    "sinusoidal": SinusoidalEncoding,
    "learned": LearnedEncoding,
    "rope": TrineRotaryEmbedding,
    "relative": RelativeEncoding,
    "none": PositionEncoding,
}
