"""The feed-forwards by name."""

from .experts import SparseMLP
from .mlp import make_mlp


FEED_FORWARDS = {"dense": make_mlp, "sparse": SparseMLP}
