"""The attention mechanisms by name."""

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
