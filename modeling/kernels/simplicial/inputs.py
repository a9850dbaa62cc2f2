"""The inputs of 2-simplicial attention, the same for every backend."""

# Shapes: B batch, H heads, G key-value heads, Q queries, K keys, M second keys, D head size.

from typing import Any, NamedTuple

from torch import Tensor

from .forms import Window


class SimplicialInputs(NamedTuple):
    """The tensors, windows and form of one call. The last Q tokens of both key axes are the queries' own.

    Attributes:
        query: (B, H, Q, D).
        key: (B, G, K, D), as is `value`.
        second_key: (B, G, M, D), as is `second_value`.
        offset_bias: (H, size of the second window), added to the logits of a query and the second key that lies so far
            from the left end of its window, or None.
        segments: (B, max(K, M)) int32, aligned with the last tokens: tokens see their own segment only, and 0 is
            padding, whose output is 0. None if all are one.
        first: Window of `key` and `value`.
        second: Window of `second_key` and `second_value`.
        form: A name in `FORMS`.
        scale: Factor on the logits.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    second_key: Tensor
    second_value: Tensor
    offset_bias: Tensor | None
    segments: Tensor | None
    first: Window
    second: Window
    form: str
    scale: float

    def flat(self) -> tuple[Any, ...]:
        """The arguments of an operator, as `SIMPLICIAL_ARGUMENTS` names them."""
        return (*self[:7], [*self.first, *self.second], self.form, self.scale)

    def clip(self) -> "SimplicialInputs":
        """Clips both windows, and the offset bias, to the length of the text."""
        queries, window = self.query.shape[2], self.second
        first, second = self.first.clip(queries, self.key.shape[2]), window.clip(queries, self.second_key.shape[2])
        bias = self.offset_bias
        if bias is not None and second.size < window.size:
            bias = bias.narrow(1, window.left - second.left, second.size)
        return self._replace(first=first, second=second, offset_bias=bias)


SIMPLICIAL_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor value, Tensor second_key, Tensor second_value, "
    "Tensor? offset_bias, Tensor? segments, SymInt[] reaches, str form, float scale"
)


def from_flat(*flat) -> SimplicialInputs:
    """The inputs whose `flat()` these are."""
    *tensors, reaches, form, scale = flat
    first, second = Window(*reaches[:2]), Window(*reaches[2:])
    return SimplicialInputs(*tensors, first=first, second=second, form=form, scale=scale)
