"""Other ways to compute 2-simplicial attention and to decode, for `trine benchmark simplicial`."""

# Shapes: B batch, H heads, L tokens, D head size; in a chunk: C queries, T second keys of each, W first keys.

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from transformers.cache_utils import Cache

from trine import TrineConfig, TrineModel
from trine.modeling.attention.simplicial import SimplicialAttention
from trine.modeling.kernels.simplicial.chunked import simplicial_chunked
from trine.modeling.kernels.simplicial.chunks import ChunkedProblem
from trine.modeling.kernels.simplicial.forms import FORMS, Window, make_window
from trine.modeling.kernels.simplicial.inputs import SimplicialInputs


FORM = "hadamard"


def make_states(length: int, heads: int = 2, head_dim: int = 64, **kwargs) -> list[torch.Tensor]:
    """Random query, key, value, second key and second value (1, H, L, D)."""
    return [torch.randn(1, heads, length, head_dim, **kwargs) for _ in range(5)]


def causal_options(windows: list[int], head_dim: int = 64) -> dict:
    """The keyword arguments of a path for causal windows of these two sizes."""
    first, second = (make_window(size, True) for size in windows)
    return {"first": first, "second": second, "form": FORM, "scale": FORMS[FORM].scale(head_dim)}


def count_pairs(length: int, windows: list[int]) -> int:
    """Pairs that the tokens of one head see in causal windows of these two sizes."""
    first, second = windows
    return sum(min(seen, first) * min(seen, second) for seen in range(1, length + 1))


def trine_chunked(*states: torch.Tensor, **options) -> torch.Tensor:
    """Trine's path on a CPU."""
    return simplicial_chunked(SimplicialInputs(*states, offset_bias=None, segments=None, **options))


def naive(query, key, value, second_key, second_value, *, first: Window, second: Window, form: str, scale: float):
    """The definition, in einsums over all triples, with a mask for the windows."""
    assert form == "hadamard"
    places = torch.arange(query.shape[2], device=query.device)
    distance = places - places[:, None]
    sees_first, sees_second = ((distance >= -reach.left) & (distance <= reach.right) for reach in (first, second))
    logits = torch.einsum("bhid,bhjd,bhkd->bhijk", query, key, second_key) * scale
    logits = logits.masked_fill(~(sees_first[:, :, None] & sees_second[:, None]), float("-inf"))
    weights = logits.flatten(-2).softmax(dim=-1).view_as(logits)
    return torch.einsum("bhijk,bhjd,bhkd->bhid", weights, value, second_value)


def chunked_autograd(query, key, value, second_key, second_value, *, first, second, form, scale):
    """The definition, 32 queries at a time: all second windows are unfolded first, and autograd does the rest."""
    assert query.shape[1] == key.shape[1]
    padding = (0, 0, second.left, second.right)
    second_keys, second_values = (
        functional.pad(states, padding).unfold(2, second.size, 1).transpose(-1, -2)  # (B, H, L, T, D)
        for states in (second_key, second_value)
    )
    length = query.shape[2]
    places = torch.arange(length, device=query.device)
    outputs = []
    for start in range(0, length, 32):
        rows = slice(start, start + 32)
        columns = slice(max(0, start - first.left), start + 32 + first.right)
        composed = FORMS[form].compose(query[:, :, rows, None], second_keys[:, :, rows]) * scale
        distance = places[columns] - places[rows, None]  # (C, W)
        index = places[rows, None] + torch.arange(-second.left, second.right + 1, device=query.device)  # (C, T)
        sees_first = (distance >= -first.left) & (distance <= first.right)
        sees = sees_first[:, None] & ((index >= 0) & (index < length))[..., None]  # (C, T, W)
        logits = composed.flatten(2, 3) @ key[:, :, columns].transpose(-1, -2)
        logits = logits.view(*composed.shape[:4], -1).masked_fill(~sees, float("-inf"))
        weights = logits.flatten(-2).softmax(dim=-1).view(*logits.shape[:2], -1, logits.shape[-1])
        mixed = (weights @ value[:, :, columns]).view_as(composed)
        outputs.append((mixed * second_values[:, :, rows]).sum(dim=-2))
    return torch.cat(outputs, dim=2)


def same_chunks_autograd(query, key, value, second_key, second_value, *, first, second, form, scale):
    """The chunks of `simplicial_chunked` without its backward pass: autograd keeps what each of them needs."""
    states = (query, key, value, second_key, second_value)
    problem = ChunkedProblem(SimplicialInputs(*states, None, None, first, second, form, scale))
    places = torch.arange(query.shape[2], device=query.device)
    outputs = []
    for chunk in problem.chunks():
        assert chunk.heads.stop >= len(problem.query), "a chunk has all heads"
        composed, keys = problem.compose(chunk), places[chunk.keys]
        logits = torch.bmm(composed, problem.key[:, chunk.keys].transpose(1, 2))
        rows = places[chunk.queries, None]
        sees_first = (keys >= rows - first.left) & (keys <= rows + first.right)  # (C, W)
        index = rows + torch.arange(-second.left, second.right + 1, device=query.device)
        sees_second = (index >= 0) & (index < len(places))  # (C, T)
        sees = sees_first[:, None] & sees_second[..., None]
        logits = logits.view(len(logits), problem.repeat, *sees.shape).masked_fill(~sees, float("-inf"))
        weights = logits.flatten(-2).softmax(dim=-1).view(*composed.shape[:2], -1)
        windows = problem.windows(problem.second_value, chunk)
        mixed = torch.bmm(weights, problem.value[:, chunk.keys]).view(-1, problem.repeat, *windows.shape[2:])
        outputs.append((mixed * windows).sum(dim=-2))
    return torch.cat(outputs, dim=2).view(query.shape)


PATHS = {
    "Trine": trine_chunked,
    "naive einsum": naive,
    "chunked autograd": chunked_autograd,
    "same chunks, autograd": same_chunks_autograd,
}


def packaged() -> tuple[Callable | None, str]:
    """The attention of the PyPI package `simplicial-attention` that a CPU can compute, or why there is none."""
    try:
        from simplicial_attention.simplicial_attention import (  # pyright: ignore[reportMissingImports] optional
            naive_two_simplicial_attend,
        )
    except ImportError as error:
        return None, f"the package simplicial-attention cannot be imported: {error}"

    def attend(query, key, value, second_key, second_value):
        return naive_two_simplicial_attend(query, (key, second_key), (value, second_value), causal=True)

    return attend, ""


def decode_kernels(context: int, windows: list[int]) -> dict[str, Callable[[], object]]:
    """One query of 8 heads of 64: against what both windows hold, and by SDPA against the whole context."""
    query, key, value = (torch.randn(1, 8, length, 64) for length in (1, context, context))
    first, second = ([states[:, :, -size:].contiguous() for states in (key, value)] for size in windows)
    options = causal_options(windows)
    return {
        "Trine": lambda: trine_chunked(query, *first, *second, **options),
        "SDPA": lambda: functional.scaled_dot_product_attention(query, key, value),
    }


def make_layer(attention_type: str, windows: list[int]) -> TrineModel:
    """A model whose one layer has 8 heads of 64 and no positions."""
    return TrineModel(
        TrineConfig(
            vocab_size=8,
            hidden_size=512,
            num_attention_heads=8,
            num_key_value_heads=8,
            num_hidden_layers=1,
            attention_types=attention_type,
            position_type="none",
            simplicial_window=windows[0],
            simplicial_second_window=windows[1],
            attn_implementation="sdpa",  # pyright: ignore[reportCallIssue] taken by transformers' config
        )
    ).eval()


def fill_cache(model: TrineModel, context: int, windows: list[int], dtype: torch.dtype = torch.float32) -> Cache:
    """The layer's cache as it is after a prompt of `context - 1` tokens and one token more."""
    cache = model.make_cache()
    is_simplicial = isinstance(model.layers[0].self_attn, SimplicialAttention)
    for length in (context - 1, 1):
        states = [torch.randn(1, 8, length, 64, dtype=dtype) for _ in range(4)]
        seconds = {"second_keys": states[2], "second_values": states[3], "windows": tuple(windows)}
        key, value = states[:2]
        cache.update(key, value, 0, **(seconds if is_simplicial else {}))
    return cache


def decode_layer(attention_type: str, context: int, windows: list[int]) -> Callable[[], object]:
    """A step of an attention layer, projections and update of its cache included, after so many tokens."""
    model = make_layer(attention_type, windows)
    cache, hidden = fill_cache(model, context, windows), torch.randn(1, 1, model.config.hidden_size)
    layer: Any = model.layers[0]
    return lambda: layer.self_attn(hidden, past_key_values=cache)


def cache_bytes(cache: Cache) -> int:
    """The memory that the tensors of the cache keep from being freed."""
    tensors = [value for value in vars(cache.layers[0]).values() if isinstance(value, torch.Tensor)]
    return sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())
