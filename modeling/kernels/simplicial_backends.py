"""The paths that compute 2-simplicial attention, by name, and the choice among them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers.utils import logging

from ...configuration.configuration_trine import TrineConfig
from .simplicial_chunked import simplicial_chunked
from .simplicial_eager import simplicial_eager
from .simplicial_flex import flex_unavailable, simplicial_flex
from .simplicial_forms import Reach
from .simplicial_triton import simplicial_triton, triton_unavailable


logger = logging.get_logger(__name__)


class SimplicialBackend(NamedTuple):
    """One path, which computes no more of the windows than the text has.

    Attributes:
        compute: Takes what `simplicial_chunked` takes, and returns the same or, with marginals, three tensors.
        unavailable: Says why the path cannot serve a query with this reach of the second window, or None.
        has_marginals: Whether it returns the weights of first and of second keys, too.
    """

    compute: Callable
    unavailable: Callable[[torch.Tensor, Reach], str | None] = lambda query, second: None
    has_marginals: bool = False

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        second_key: torch.Tensor,
        second_value: torch.Tensor,
        offset_bias: torch.Tensor | None,
        segments: torch.Tensor | None,
        *,
        first: Reach,
        second: Reach,
        **options,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if not torch.compiler.is_compiling():  # one graph serves texts of all lengths
            window, queries = second, query.shape[2]
            first, second = first.clip(queries, key.shape[2]), second.clip(queries, second_key.shape[2])
            if offset_bias is not None:
                offset_bias = offset_bias.narrow(1, window.left - second.left, second.size)
        states = (query, key, value, second_key, second_value)
        result = self.compute(*states, offset_bias, segments, first=first, second=second, **options)
        return result if self.has_marginals else (result, None, None)


BACKENDS = {
    "eager": SimplicialBackend(simplicial_eager, has_marginals=True),
    "chunked": SimplicialBackend(simplicial_chunked),
    "flex": SimplicialBackend(simplicial_flex, flex_unavailable),
    "triton": SimplicialBackend(simplicial_triton, triton_unavailable),
}


def choose_backend(config: TrineConfig, query: torch.Tensor, second: Reach) -> SimplicialBackend:
    """The path that `config.simplicial_backend` names, or that `auto` stands for.

    `auto` is `eager` where `attn_implementation` is, which returns weights; else `triton` where that runs, which is
    on an accelerator; else `chunked`.

    Raises:
        ValueError: If the path that is named cannot serve.
    """
    name = config.simplicial_backend
    if name == "auto":
        if config._attn_implementation == "eager":
            name = "eager"
        else:
            name = "triton" if query.device.type == "cuda" and triton_unavailable(query, second) is None else "chunked"
    reason = BACKENDS[name].unavailable(query, second)
    if reason is not None:
        raise ValueError(f"simplicial_backend={name!r} cannot serve here: {reason}. Use 'auto' or 'chunked'.")
    if not torch.compiler.is_compiling():
        logger.info_once(f"2-simplicial attention on {query.device.type!r} runs by the path {name!r}.")
    return BACKENDS[name]
