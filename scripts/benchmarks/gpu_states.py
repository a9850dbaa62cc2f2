"""Attention kinds against length on a GPU, for `trine benchmark gpu`."""

from collections.abc import Callable, Iterator

import torch

from trine.scripts.benchmarks.attention_layers import EAGER, HEADS, HIDDEN, WAYS, Layer, attend
from trine.scripts.benchmarks.gpu_setting import Setting, attempt


COLUMNS = ("kind", "tokens", "forward ms", "forward and backward ms", "peak memory MiB", "a token after them ms")
NOTE = f"""One attention layer of each kind, projections and the making of its mask included: hidden size {HIDDEN},
{HEADS} heads of {HIDDEN // HEADS}, batch 1, no positions, windows and blocks at their defaults (simplicial: 64 and 8
tokens). Peak memory is that of the tensors of both passes beyond weights and inputs. Short texts are bound by the
starts of kernels."""


def jobs(setting: Setting) -> dict[str, tuple]:
    """A job for each kind."""
    kinds = [way for way in WAYS if way != EAGER]
    return {kind: (measure_kind, kind) for kind in setting.pick(kinds, ["full", "linear", "simplicial"])}


def measure_kind(setting: Setting, kind: str) -> Iterator[list[str]]:
    """A row for each length."""
    lengths = setting.pick((2048, 8192, 32768), (16, 32))
    layer = Layer(kind, True, max(lengths)).to(setting.device, setting.dtype)
    for length in lengths:
        cells = [attempt(lambda run=run, length=length: [run(setting, layer, length)]) for run in MEASURES]
        yield [kind, f"{length}", *(cell for (cell,) in cells)]


def make_hidden(setting: Setting, length: int) -> torch.Tensor:
    """Random states (1, length, hidden)."""
    return torch.randn(1, length, HIDDEN, device=setting.device, dtype=setting.dtype)


def time_forward(setting: Setting, layer: Layer, length: int) -> str:
    """Milliseconds of a forward pass."""
    hidden = make_hidden(setting, length)
    with torch.no_grad():
        return f"{setting.seconds(lambda: layer(hidden)) * 1000:.2f}"


def training(setting: Setting, layer: Layer, length: int) -> Callable[[], object]:
    """A forward and backward pass."""
    hidden, grad = make_hidden(setting, length).requires_grad_(), make_hidden(setting, length)
    used = [hidden, *(each for each in layer.model.layers[0].self_attn.parameters() if each.requires_grad)]  # pyright: ignore
    return lambda: torch.autograd.grad(layer(hidden), used, grad, allow_unused=True)


def time_training(setting: Setting, layer: Layer, length: int) -> str:
    """Milliseconds of a forward and backward pass."""
    return f"{setting.seconds(training(setting, layer, length)) * 1000:.2f}"


def training_memory(setting: Setting, layer: Layer, length: int) -> str:
    """MiB at the peak of a forward and backward pass."""
    return f"{setting.peak_memory(training(setting, layer, length)):,.0f}"


def time_decoding(setting: Setting, layer: Layer, length: int) -> str:
    """Milliseconds of a token with a cache; each lengthens the text by one."""
    model = layer.model.eval()
    cache, token = model.make_cache(), make_hidden(setting, 1)
    with torch.no_grad():
        attend(model, make_hidden(setting, length), cache)
        return f"{setting.seconds(lambda: attend(model, token, cache)) * 1000:.3f}"


MEASURES = (time_forward, time_training, training_memory, time_decoding)
