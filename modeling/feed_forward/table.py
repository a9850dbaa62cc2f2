"""The feed-forwards by name, and what chooses the kernel of those that need one."""

from ...configuration.lazy_choices import LazyChoices, later
from .mlp import make_mlp


FEED_FORWARDS = LazyChoices(
    "mlp_layer_types", {"dense": make_mlp, "sparse": later(".experts", "SparseMLP")}, package=__package__
)
EXPERT_CHOICES = LazyChoices("mlp_layer_types", {"sparse": later(".experts", "choose_kernel")}, package=__package__)
