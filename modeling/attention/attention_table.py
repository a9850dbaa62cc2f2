"""The attention mechanisms by name."""

from .chunked import ChunkedAttention
from .full import FullAttention
from .simplicial import SimplicialAttention
from .sliding import SlidingAttention


ATTENTIONS = {
    "full": FullAttention,
    "sliding": SlidingAttention,
    "chunked": ChunkedAttention,
    "simplicial": SimplicialAttention,
}
