"""The layers that `trine benchmark attention` measures: one of each attention kind, alone, and with its cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import Cache

from trine import TrineConfig, TrineModel
from trine.modeling.attention.table import ATTENTIONS
from trine.modeling.masks.masks import make_masks
from trine.scripts.reports.markdown import process_memory


HIDDEN, HEADS = 256, 4
EAGER = "full, eager"  # full attention that writes all weights out
# Fields by name. Windows and blocks are the defaults, but for those of pairs of tokens: they cost their product.
WAYS: dict[str, dict[str, Any]] = {
    **{kind: {"attention_types": kind} for kind in ATTENTIONS},
    "simplicial": {"attention_types": "simplicial", "simplicial_window": 64, "simplicial_second_window": 8},
    EAGER: {"attention_types": "full", "attn_implementation": "eager"},
}
QUADRATIC = ("full", EAGER)


def all_ways() -> list[str]:
    """The names above, and the kinds that plugins have registered since this was imported."""
    return [*dict.fromkeys([*ATTENTIONS, *WAYS])]


def make_model(way: str, is_causal: bool, longest: int, **fields) -> TrineModel:
    """A model of one layer without positions, meant for texts of up to `longest` tokens."""
    config = {
        "vocab_size": 8,
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "num_hidden_layers": 1,
        "position_type": "none",
        "max_position_embeddings": longest,
        "is_causal": is_causal,
        "attn_implementation": "sdpa",
        **WAYS.get(way, {"attention_types": way}),  # a plugin's in a process that imported this before it
        **fields,
    }
    return TrineModel(TrineConfig(**config))


def attend(model: TrineModel, hidden: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
    """The output of the attention layer alone, (1, L, hidden); the mask that it needs is made, too."""
    visibility, layer = make_masks(model.config, hidden, None, cache, None), model.layers[0]
    (layer_type,) = visibility
    return layer.self_attn(hidden, visibility[layer_type], past_key_values=cache)[0]  # pyright: ignore[reportCallIssue]


def forward(run: Callable[[torch.Tensor], torch.Tensor], length: int) -> Callable[[], object]:
    """A forward pass on random states of this length."""
    hidden = torch.randn(1, length, HIDDEN)
    return torch.no_grad()(lambda: run(hidden))


def training(run: Callable[[torch.Tensor], torch.Tensor], length: int) -> Callable[[], object]:
    """A forward and backward pass on random states; gradients of parameters are made anew, not added up."""
    hidden = torch.randn(1, length, HIDDEN, requires_grad=True)
    grad = torch.randn(1, length, HIDDEN)
    parameters = list(getattr(run, "parameters", list)())

    def both() -> None:
        for parameter in (hidden, *parameters):
            parameter.grad = None
        run(hidden).backward(grad)

    return both


class Layer(torch.nn.Module):
    """A model's attention layer as a map of (1, L, hidden) to the same shape."""

    def __init__(self, way: str, is_causal: bool, longest: int, **fields):
        super().__init__()
        self.model = make_model(way, is_causal, longest, **fields)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Maps (1, L, hidden) to the same shape."""
        return attend(self.model, hidden)


BOTH = "forward and backward"
TASKS: dict[str, Callable[..., Callable[[], object]]] = {"forward": forward, BOTH: training}


def training_memory(way: str, is_causal: bool, longest: int, length: int) -> float:
    """Peak memory of a layer's forward and backward pass in MiB, with its weights, gradients and inputs.

    It is the growth of this process, which has warmed up on the smallest layer of another kind.
    """
    training(Layer("full", is_causal, longest), 16)()
    before = process_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    training(Layer(way, is_causal, longest), length)()
    return process_memory("VmHWM") - before


@torch.no_grad()
def decoding(way: str, context: int, longest: int) -> Callable[[], object]:
    """A step that adds a token to a text of `context` tokens; each call lengthens it by one."""
    model = make_model(way, True, longest).eval()
    cache, token = model.make_cache(), torch.randn(1, 1, HIDDEN)
    attend(model, torch.randn(1, context, HIDDEN), cache)
    return torch.no_grad()(lambda: attend(model, token, cache))
