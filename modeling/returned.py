"""Checks the classes of registered mechanisms, and what their layers return whenever they are run.

None of it goes with a checkpoint.
"""

from collections.abc import Mapping
from functools import wraps
from typing import Any

import torch
from torch import nn

from ..configuration.choices import Choices
from ..configuration.kind_rows import Kind
from .attention.state import StateAttention
from .feed_forward.routers import TrineRouter
from .positions.base import PositionEncoding


# Whether `forward` returns a tuple, and how a message calls what it returns.
RETURNS = {
    "attention_types": (True, "(output, weights or None), the output of its input's shape"),
    "mlp_layer_types": (False, "a tensor of its input's shape"),
}
# The base of each class, and how a message calls it.
BASES = {
    "attention_types": (nn.Module, "torch.nn.Module"),
    "position_type": (PositionEncoding, "PositionEncoding or PositionBias"),
    "mlp_layer_types": (nn.Module, "torch.nn.Module"),
    "router_type": (TrineRouter, "TrineRouter"),
}


def check_class(rows: Choices, name: str, mechanism: Any, row: Kind, about: Mapping[str, Any]) -> Kind:
    """Raises a `ValueError` for a class without the base that a model calls, or without what it has to override."""
    base, called = BASES[rows.field]
    if isinstance(mechanism, type) and not issubclass(mechanism, base):
        raise ValueError(f"{mechanism.__qualname__} must be a subclass of {called}, for {rows.field}.")
    reads = (getattr(mechanism, "forward", None), getattr(mechanism, "scan", None))
    if reads == (StateAttention.forward, StateAttention.scan):
        raise ValueError(f"{mechanism.__qualname__} has no `scan`: a subclass of StateAttention must define it.")
    return row


def check_returned(rows: Choices, name: str, mechanism: Any, row: Kind, about: Mapping[str, Any]) -> Kind:
    """Lets `forward` raise an error where it returns something else than a layer takes, which would be broadcast.

    Compiled code asks for nothing.
    """
    run = mechanism.forward if rows.field in RETURNS else None
    if run is None or hasattr(run, "returns"):
        return row
    is_tuple, wanted = RETURNS[rows.field]

    @wraps(run)
    def forward(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        returned = run(self, hidden_states, *args, **kwargs)
        if torch.compiler.is_compiling():
            return returned
        output = returned[0] if isinstance(returned, tuple) and len(returned) == 2 else returned
        if isinstance(returned, tuple) is not is_tuple or not isinstance(output, torch.Tensor):
            raise TypeError(f"{type(self).__qualname__}.forward must return {wanted}, and not a {told(returned)}.")
        if output.shape != hidden_states.shape:
            raise ValueError(
                f"{type(self).__qualname__}.forward must return {wanted}, which is {tuple(hidden_states.shape)}, and "
                f"not {tuple(output.shape)}."
            )
        return returned

    forward.returns = wanted  # pyright: ignore[reportAttributeAccessIssue]  (a mark: a class may have several names)
    mechanism.forward = forward
    return row


def told(returned: Any) -> str:
    """The type of what was returned, and of a tuple those of its parts."""
    if not isinstance(returned, tuple):
        return type(returned).__name__
    return f"tuple ({', '.join(type(part).__name__ for part in returned)})"
