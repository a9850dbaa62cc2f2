"""The classes of the rows in `kinds.py`: what a model reads of a kind, and what the package alone needs to know.

The latter is `about`, which the code of a checkpoint leaves out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .attention_costs import Span


# Kinds that one equals with the weights that both have by name, and all others as `initialize` leaves them. Each has a
# function of a config that raises a `ValueError` where that does not hold, or None.
Equalities = Mapping[str, Callable[[Any], None] | None]
# What a number in a field has to be.
AT_LEAST_ONE = "an integer of 1 or more, or None"
ZERO_OR_MORE = "0 or more"
ABOVE_ZERO = "above 0"


@dataclass(frozen=True, kw_only=True)
class About:
    """Facts about any kind that only the package needs.

    Attributes:
        source: The paper or model that it comes from.
        fields: The config fields that only models with this kind read, each with the rule for its number; None where
            there is no such rule.
    """

    source: str
    fields: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AboutAttention(About):
    """Facts about a kind of attention. Either `pairs` or `products` tells its operations.

    Attributes:
        cost: Arithmetic cost of one layer at sequence length n.
        sees: What a token attends to.
        cache: What generation keeps of the past.
        pairs: Function of a config and a length that counts the pairs of a query and a key.
        products: Function of a config that counts operations per token, for layers that carry a state.
        span: Function of a config: tokens to the left and right that a token sees; None if a lift cannot compare it.
        equals: Kinds whose layers compute the same as this one's where both see the same; see `Equalities`.
        weights: Fields whose product is the size of a tensor that each such layer has beside its projections.
        cached_exports: Formats of `conversion/programs` whose graphs pass its cache on.
    """

    cost: str
    sees: str
    cache: str
    pairs: Callable[[Any, int], float] | None = None
    products: Callable[[Any], float] | None = None
    span: Callable[[Any], Span] | None = None
    equals: Equalities = field(default_factory=dict)
    weights: tuple[str, ...] = ()
    cached_exports: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AboutForm(About):
    """Facts about a form of 2-simplicial attention.

    Attributes:
        logit: Formula over features, of a query q, a first key k and a second key k'.
        positions: Position kinds that it may have.
    """

    logit: str
    positions: str


@dataclass(frozen=True, kw_only=True)
class AboutPosition(About):
    """Facts about a position encoding.

    Attributes:
        description: What it does.
        beyond: What happens beyond the trained length.
    """

    description: str
    beyond: str


@dataclass(frozen=True, kw_only=True)
class AboutInput(About):
    """Facts about what a model reads: `description` is one line, `patch` what becomes one vector of the stream."""

    description: str
    patch: str


@dataclass(frozen=True, kw_only=True)
class AboutFeedForward(About):
    """Facts about a kind of feed-forward: `description` is one line; `equals` is as that of `AboutAttention`."""

    description: str
    equals: Equalities = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AboutRouter(About):
    """Facts about a router.

    Attributes:
        weights: The function that weighs the chosen experts.
        balance: What keeps the load of the experts even.
    """

    weights: str
    balance: str


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One thing that a config field can name."""

    fields: tuple[tuple[str, Any], ...] = ()  # those that a plugin's kind adds to the config: name and `KindField`
    about: Any = None  # what only the package needs: a subclass of `About`
    card: tuple[str, str] | None = None  # a row of the model card: part, and a template that is given the config


@dataclass(frozen=True, kw_only=True)
class AttentionKind(Kind):
    """One way in which a layer mixes tokens."""

    layer_type: str  # transformers' name, which keys its cache layers and mask functions
    window_field: str | None = None  # the config field that holds the window, in tokens
    flash: bool  # whether transformers' flash attention functions serve it, or it needs none
    has_pair_scores: bool  # whether it scores each pair of tokens, so that a position bias and dropout can act on that
    paged: bool  # whether continuous batching serves it: transformers' paged cache holds its layers
    sees_by: str = "mask"  # how its layers learn what a token may see: by a `mask`, a `band` or a mask, or `tokens`
    causal_only: bool = False  # whether only decoders have it
    sharded: bool = True  # whether tensor parallelism knows how to split its weights


@dataclass(frozen=True, kw_only=True)
class TrilinearKind(Kind):
    """One form of the logits of 2-simplicial attention."""

    parts: int  # groups of features that it mixes: the head size is a multiple of it
    rotary_factor: float | None  # the `partial_rotary_factor` with which it reads relative positions; None: with none
    has_unit: bool  # whether a second key makes it the dot product


@dataclass(frozen=True, kw_only=True)
class FeatureMapKind(Kind):
    """One feature map of linear attention."""

    expansion: int  # features, in units of the head size


@dataclass(frozen=True, kw_only=True)
class PositionKind(Kind):
    """One way in which a layer knows where its tokens are."""

    flash: bool
    paged: bool  # whether it needs no more than the position of each token, so that requests can share one row
    adds_bias: bool = False  # whether it acts on the scores of pairs of tokens


@dataclass(frozen=True, kw_only=True)
class FeedForwardKind(Kind):
    """One kind of feed-forward layer."""


@dataclass(frozen=True, kw_only=True)
class RouterKind(Kind):
    """One way in which a token chooses its experts."""


@dataclass(frozen=True, kw_only=True)
class InputKind(Kind):
    """One thing that a model reads."""

    reads: tuple[str, ...]  # the arguments of a forward pass that are its own, the first of which has to be given
    aliases: tuple[str, ...] = ()  # other names of the first
