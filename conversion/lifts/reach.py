"""Compares how far tokens see in two stacks."""

from math import inf

from ...configuration.configuration_trine import TrineConfig
from ...configuration.kinds import ATTENTION_KINDS


def exact_length(before: TrineConfig, after: TrineConfig) -> int | None:
    """The longest text in which all tokens see the same in two stacks; None if there is no limit."""
    length = inf
    for old, new in zip(before.attention_types, after.attention_types, strict=True):
        if old != new:
            spans = ATTENTION_KINDS[old].about.span(before), ATTENTION_KINDS[new].about.span(after)
            for one, other in zip(*spans, strict=True):
                length = length if one == other else min(length, one + 1, other + 1)
    return None if length == inf else int(length)
