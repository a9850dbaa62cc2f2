"""The attention mechanisms by name, and that of cross-attention."""

from ...configuration.lazy_choices import LazyChoices, later
from .softmax import ChunkedAttention, FullAttention, SlidingAttention


ATTENTIONS = LazyChoices(
    "attention_types",
    {
        "full": FullAttention,
        "sliding": SlidingAttention,
        "chunked": ChunkedAttention,
        "simplicial": later(".simplicial", "SimplicialAttention"),
        "bigbird": later(".bigbird", "BigBirdAttention"),
        "linear": later(".linear", "LinearAttention"),
        "performer": later(".performer", "PerformerAttention"),
        "lsh": later(".lsh", "LSHAttention"),
    },
    package=__package__,
)
CROSS_ATTENTIONS = LazyChoices("add_cross_attention", {True: later(".cross", "CrossAttention")}, package=__package__)
