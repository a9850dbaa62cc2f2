"""How far a token of a layer sees, and up to which length two stacks see the same."""

from collections.abc import Callable
from math import inf

from ...configuration.configuration_trine import TrineConfig
from ...modeling.kernels.simplicial.forms import window_reach


def sliding_reach(config: TrineConfig) -> tuple[int, int]:
    if config.is_causal:
        return config.sliding_window - 1, 0
    return config.sliding_window, config.sliding_window


# Tokens to the left and to the right, by kind of attention.
REACHES: dict[str, Callable[[TrineConfig], tuple[float, float]]] = {
    "full": lambda config: (inf, 0 if config.is_causal else inf),
    "sliding": sliding_reach,
    "simplicial": lambda config: window_reach(config.simplicial_window, config.is_causal),
}


def exact_length(before: TrineConfig, after: TrineConfig) -> int | None:
    """The longest text in which the tokens of all layers see the same in two stacks; None if they do in any text."""
    length = inf
    for old, new in zip(before.attention_types, after.attention_types, strict=True):
        if old != new:
            for one, other in zip(REACHES[old](before), REACHES[new](after), strict=True):
                length = length if one == other else min(length, one + 1, other + 1)
    return None if length == inf else int(length)
