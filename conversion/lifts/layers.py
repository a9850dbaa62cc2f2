"""Some of a stack's layers, in a stack of their own."""

from collections.abc import Sequence
from copy import deepcopy

from ...configuration.configuration_trine import TrineConfig
from ...modeling.modeling_trine import TrineModel
from .base import settle_plugin_fields
from .rope import carry_rope
from .weights import rebuild


PER_LAYER = ("attention_types", "mlp_layer_types")


def choose_layers(name: str, number: int | None, chosen: Sequence[int] | None, count: int) -> list[int]:
    """The layers, of `count`, that a new stack has: all, `number` that are spread evenly, or the `chosen` ones.

    Among several that are spread, the first and the last are; a single one is the first.

    Args:
        name: Of the option with the number, for messages; that with the layers ends in `_from`.

    Raises:
        ValueError: Both are given, the number is not 1 to `count`, or a layer is not there.
    """
    if number is not None and chosen:
        raise ValueError(f"{name}={number} and {name}_from={[*chosen]}: give one of them.")
    for place, layer in enumerate(chosen or ()):
        if not 0 <= layer < count:
            raise ValueError(f"{name}_from[{place}]={layer} is no layer of the model, which has 0 to {count - 1}.")
    if chosen:
        return [*chosen]
    if number is not None and not 1 <= number <= count:
        raise ValueError(f"{name}={number} must be from 1 to {count}, the layers of the model.")
    last = (number or count) - 1
    return [round(place * (count - 1) / last) if last else 0 for place in range(last + 1)]


def keep_layers(config: TrineConfig, layers: Sequence[int]) -> None:
    """Changes a config to that of a stack of these layers of its own; one may be there several times."""
    own = config.plugin_fields_in_use()
    old_types = [config.layer_types[layer] for layer in layers]
    config.num_hidden_layers = len(layers)
    for name in PER_LAYER:
        setattr(config, name, [getattr(config, name)[layer] for layer in layers])
    config.settle_window()
    settle_plugin_fields(config, own)
    carry_rope(config, old_types)


def take_layers(stack: TrineModel, layers: Sequence[int]) -> TrineModel:
    """A stack with copies of these layers of `stack`, and of all else; `stack` itself if it has no others."""
    if [*layers] == [*range(len(stack.layers))]:
        return stack
    config = deepcopy(stack.config)
    keep_layers(config, layers)
    config.check()
    return rebuild(stack, config, {"": layers})
