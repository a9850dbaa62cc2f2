"""The door for mechanisms of somebody's own: what registers them is known to configs, models and commands by name.

Trine's own kinds are rows of the same tables.
"""

from collections.abc import Callable, Mapping
from typing import Any

from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING, STATIC_LAYER_TYPE_MAPPING

from ..configuration.choices import Choices, in_package
from ..configuration.kind_fields import KindField
from ..configuration.kind_rows import AttentionKind, FeedForwardKind, Kind, PositionKind, RouterKind
from ..configuration.kinds import ATTENTION_KINDS, FEED_FORWARD_KINDS, POSITION_KINDS, ROUTER_KINDS
from ..configuration.plugin_rows import check_free, enter
from .attention.table import ATTENTIONS
from .feed_forward.routers import ROUTERS
from .feed_forward.table import FEED_FORWARDS
from .positions.base import PositionEncoding
from .positions.table import POSITIONS
from .returned import check_class, check_returned


# With a checkpoint's code go the classes and the rows; nobody else registers anything there.
ENTRANCES = in_package((check_free, check_class, enter, check_returned))


def register_attention(
    name: str, mechanism: type | None = None, *, fields: Mapping[str, KindField] | None = None, **about
) -> Any:
    """Makes `attention_types` know a mechanism.

    Args:
        name: What a config calls it: letters, digits, `_` and `-`.
        mechanism: A subclass of `PairwiseAttention` or `StateAttention`, or any module that is made by
            `mechanism(config, layer_idx)` and called as `PairwiseAttention.forward` is. Without one, this is a
            decorator of classes. Attributes of the class say what it needs: `sees_by` ("tokens": padding and packed
            sequences; "mask": booleans for pairs, the default of `PairwiseAttention`, and only there),
            `causal_only`, and `cache_layer_class`, a subclass of `StatesCacheLayer`.
        fields: The config fields that it adds, by name.
        about: `check`, a function that is given the config and raises a `ValueError` for fields that do not go
            together; `source`, the paper; `sees`, `cost` and `cache`, as in `trine list kinds`; `pairs` or `products`,
            how much it computes, and `span`, how far it sees, as in `AboutAttention`; `equals`, the kinds that it
            equals, for lifts: with the weights that both have, and all others as `initialize` leaves them. Each has
            None, or a function that is given the config and raises a `ValueError` where that does not hold;
            `shareable=False` for a mechanism that checkpoints do not take along.

    Returns:
        The class, or the decorator.

    Raises:
        ValueError: The name or a field is taken, the class has other arguments than it is called with, or its file
            imports what a checkpoint could not take along.

    Example:
        >>> from trine import PairwiseAttention
        >>> @register_attention("squared", source="So et al. 2021, arXiv 2109.08668")
        ... class SquaredAttention(PairwiseAttention):
        ...     def weights(self, scores, visible):
        ...         weights = scores.relu().square() / scores.shape[-1]
        ...         return weights if visible is None else weights * visible
    """

    def make_row(mechanism: Any) -> AttentionKind:
        is_pairwise = hasattr(mechanism, "cache_layer_classes")
        return AttentionKind(
            layer_type="pairwise_attention" if is_pairwise else name_cache(name, mechanism),
            flash=True,
            has_pair_scores=is_pairwise,
            paged=False,
            sharded=False,
            sees_by=getattr(mechanism, "sees_by", "mask" if is_pairwise else "tokens"),
            causal_only=getattr(mechanism, "causal_only", False),
            fields=tuple((fields or {}).items()),
        )

    return register(ATTENTION_KINDS, ATTENTIONS, name, mechanism, make_row, about)


def register_position(
    name: str, mechanism: type | None = None, *, fields: Mapping[str, KindField] | None = None, **about
) -> Any:
    """Makes `position_type` know an encoding; as `register_attention` does.

    Args:
        name: What a config calls it.
        mechanism: A subclass of `PositionEncoding`, or of `PositionBias`, which acts on attention to pairs only.
        fields: The config fields that it adds, by name.
        about: `check`, `source` and `shareable`, as there; `beyond`, what happens beyond the trained length.
    """

    def make_row(mechanism: Any) -> PositionKind:
        biased = getattr(mechanism, "biases", PositionEncoding.biases) is not PositionEncoding.biases
        return PositionKind(flash=not biased, paged=False, adds_bias=biased, fields=tuple((fields or {}).items()))

    return register(POSITION_KINDS, POSITIONS, name, mechanism, make_row, about)


def register_feed_forward(
    name: str, mechanism: type | None = None, *, fields: Mapping[str, KindField] | None = None, **about
) -> Any:
    """Makes `mlp_layer_types` know a feed-forward; as `register_attention` does.

    Args:
        name: What a config calls it.
        mechanism: A module that is made by `mechanism(config)`, and maps (batch, length, hidden) to the same shape.
        fields: The config fields that it adds, by name.
        about: `check`, `source`, `equals` and `shareable`, as there.
    """
    return register(
        FEED_FORWARD_KINDS,
        FEED_FORWARDS,
        name,
        mechanism,
        lambda _: FeedForwardKind(fields=tuple((fields or {}).items())),
        about,
    )


def register_router(
    name: str, mechanism: type | None = None, *, fields: Mapping[str, KindField] | None = None, **about
) -> Any:
    """Makes `router_type` know a router; as `register_attention` does.

    Args:
        name: What a config calls it.
        mechanism: A subclass of `TrineRouter`.
        fields: The config fields that it adds, by name.
        about: `check`, `source` and `shareable`, as there; `balance`, what keeps the load of the experts even.
    """
    return register(
        ROUTER_KINDS, ROUTERS, name, mechanism, lambda _: RouterKind(fields=tuple((fields or {}).items())), about
    )


def register(
    rows: Choices,
    mechanisms: Choices,
    name: str,
    mechanism: type | None,
    make_row: Callable[[type], Kind],
    about: Mapping[str, Any],
) -> Any:
    """Puts a row and a class into their tables; without a class, returns the decorator that does so.

    Raises:
        TypeError: The name is no text, as where a decorator stands without one.
    """
    if not isinstance(name, str):
        raise TypeError(f"name={name!r} must be a str: what a config calls the mechanism comes first.")

    def add(mechanism: type) -> type:
        row = make_row(mechanism)
        for check_in in ENTRANCES:
            row = check_in(rows, name, mechanism, row, about)
        rows[name], mechanisms[name] = row, mechanism
        return mechanism

    return add if mechanism is None else add(mechanism)


def name_cache(name: str, mechanism: Any) -> str:
    """The name under which transformers' caches find the layer that holds the states of a mechanism.

    A layer without a name gets that of the mechanism. A mechanism without a layer of its own needs none, or keeps keys
    and values of all tokens.
    """
    layer = getattr(mechanism, "cache_layer_class", None)
    layer_type = getattr(layer, "_layer_type", None) or f"{name}_attention"
    if layer is None:
        full = "full_attention"
        DYNAMIC_LAYER_TYPE_MAPPING[layer_type] = DYNAMIC_LAYER_TYPE_MAPPING[full]
        STATIC_LAYER_TYPE_MAPPING[layer_type] = STATIC_LAYER_TYPE_MAPPING[full]
    elif layer._layer_type is None:
        layer.name_type(layer_type)
    return layer_type
