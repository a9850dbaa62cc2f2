"""The paths that compute 2-simplicial attention, by name, and the choice among them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers.utils import logging

from ....configuration.choices import Choices
from ....configuration.configuration_trine import TrineConfig
from .chunked import simplicial_chunked
from .eager import simplicial_eager
from .flex import flex_unavailable, simplicial_flex
from .forms import Window
from .inputs import SimplicialInputs
from .triton.operators import simplicial_triton, triton_unavailable


logger = logging.get_logger(__name__)


class SimplicialBackend(NamedTuple):
    """One path.

    Attributes:
        name: What `config.simplicial_backend` calls it.
        compute: Takes the inputs, and returns the output (B, H, Q, D) or, with marginals, three tensors.
        unavailable: Says why the path cannot serve a query with this second window, or None.
        has_marginals: Whether it returns the weights of first and of second keys, too.
        clips: Whether it is given the part of the windows that the text has, to compute no more. Kernels that are
            compiled for the size of a window take it whole: they would be compiled for the first lengths one by one.
    """

    name: str
    compute: Callable[[SimplicialInputs], Any]
    unavailable: Callable[[torch.Tensor, Window], str | None] = lambda query, second: None
    has_marginals: bool = False
    clips: bool = True

    def __call__(self, inputs: SimplicialInputs) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if self.clips and not torch.compiler.is_compiling():  # one graph serves texts of all lengths
            inputs = inputs.clip()
        result = self.compute(inputs)
        return result if self.has_marginals else (result, None, None)


EAGER = SimplicialBackend("eager", simplicial_eager, has_marginals=True)
CHUNKED = SimplicialBackend("chunked", simplicial_chunked)
FLEX = SimplicialBackend("flex", simplicial_flex, flex_unavailable)
TRITON = SimplicialBackend("triton", simplicial_triton, triton_unavailable, clips=False)


def choose_automatically(config: TrineConfig, query: torch.Tensor, second: Window) -> SimplicialBackend:
    """`eager` where `attn_implementation` is, which returns weights; else `triton` on an accelerator that runs it."""
    if config._attn_implementation == "eager":
        return EAGER
    return TRITON if query.device.type == "cuda" and TRITON.unavailable(query, second) is None else CHUNKED


# Each takes the config, a query and the second window.
BACKENDS = Choices(
    "simplicial_backend",
    {
        "auto": choose_automatically,
        "eager": lambda *_: EAGER,
        "chunked": lambda *_: CHUNKED,
        "flex": lambda *_: FLEX,
        "triton": lambda *_: TRITON,
    },
)


def choose_backend(config: TrineConfig, query: torch.Tensor, second: Window) -> SimplicialBackend:
    """The path that `config.simplicial_backend` names, or that `auto` stands for.

    Raises:
        ValueError: If the path that is named cannot serve.
    """
    backend = BACKENDS[config.simplicial_backend](config, query, second)
    reason = backend.unavailable(query, second)
    if reason is not None:
        raise ValueError(f"simplicial_backend={backend.name!r} cannot serve here: {reason}. Use 'auto' or 'chunked'.")
    if query.shape[2] > 1 and not torch.compiler.is_compiling():  # not in each step of decoding
        logger.info_once(f"2-simplicial attention on {query.device.type!r} runs by the path {backend.name!r}.")
    return backend
