"""The attention mechanisms by name."""

from ...configuration.choices import Choices
from .bigbird import BigBirdAttention
from .linear import LinearAttention
from .lsh import LSHAttention
from .performer import PerformerAttention
from .simplicial import SimplicialAttention
from .softmax import ChunkedAttention, FullAttention, SlidingAttention


ATTENTIONS = Choices(
    "attention_types",
    {
        "full": FullAttention,
        "sliding": SlidingAttention,
        "chunked": ChunkedAttention,
        "simplicial": SimplicialAttention,
        "bigbird": BigBirdAttention,
        "linear": LinearAttention,
        "performer": PerformerAttention,
        "lsh": LSHAttention,
    },
)
