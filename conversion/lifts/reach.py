"""Compares how far tokens see in two stacks."""

from math import inf

from ...configuration.attention_costs import common_length
from ...configuration.configuration_trine import TrineConfig
from ...configuration.kinds import ATTENTION_KINDS


def exact_length(before: TrineConfig, after: TrineConfig) -> int | None:
    """The longest text in which all tokens see the same in two stacks; None if there is no limit."""
    length = inf
    for old, new in zip(before.attention_types, after.attention_types, strict=True):
        if old != new:
            spans = ATTENTION_KINDS[old].about.span, ATTENTION_KINDS[new].about.span
            length = min(length, common_length(spans[0](before), spans[1](after)))
    return None if length == inf else int(length)
