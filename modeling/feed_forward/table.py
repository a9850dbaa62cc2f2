"""The feed-forwards by name."""

from ...configuration.choices import Choices
from .experts import SparseMLP
from .mlp import make_mlp


FEED_FORWARDS = Choices("mlp_layer_types", {"dense": make_mlp, "sparse": SparseMLP})
