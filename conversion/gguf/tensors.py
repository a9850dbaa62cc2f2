"""Writes our weights under llama.cpp's names, in its order of rotated features, in one of its types."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..plan import Plan
from .architectures import Architecture, rope_of


class Stored(NamedTuple):
    """A type of numbers.

    Attributes:
        file: The name of a file of it in `gguf.LlamaFileType`.
        block: Numbers with a scale of their own; a row must be whole blocks.
        error: Largest error of a number, as a part of the largest of its tensor.
    """

    file: str
    block: int
    error: float


DTYPES = {
    "f32": Stored("ALL_F32", 1, 0.0),
    "f16": Stored("MOSTLY_F16", 1, 2**-11),
    "bf16": Stored("MOSTLY_BF16", 1, 2**-8),
    "q8_0": Stored("MOSTLY_Q8_0", 32, 0.5 / 127 + 2**-10),
}
# By what the checkpoint has; no other type is written unasked.
SAME = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
# Our names below the trunk or a layer, and llama.cpp's in `gguf.MODEL_TENSOR`.
NAMES = {
    "embed_tokens": "TOKEN_EMBD",
    "norm": "OUTPUT_NORM",
    "lm_head": "OUTPUT",
    "input_layernorm": "ATTN_NORM",
    "self_attn.q_proj": "ATTN_Q",
    "self_attn.k_proj": "ATTN_K",
    "self_attn.v_proj": "ATTN_V",
    "self_attn.o_proj": "ATTN_OUT",
    "self_attn.q_norm": "ATTN_Q_NORM",
    "self_attn.k_norm": "ATTN_K_NORM",
    "post_attention_layernorm": "FFN_NORM",
    "mlp.gate_proj": "FFN_GATE",
    "mlp.up_proj": "FFN_UP",
    "mlp.down_proj": "FFN_DOWN",
    "mlp.gate": "FFN_GATE_INP",
}
# Stacked experts: our tensor, and llama.cpp's that its rows are.
EXPERTS = {"gate_up_proj": ("FFN_GATE_EXP", "FFN_UP_EXP"), "down_proj": ("FFN_DOWN_EXP",)}
PLACE = re.compile(r"(?:model\.)?(?:layers\.(\d+)\.)?(.+?)(?:\.(weight|bias))?")
FLOATS = ("FFN_GATE_INP",)  # matrices that llama.cpp takes as float32


class Written(NamedTuple):
    """A tensor of the file: its name, the numbers, and the name of their type in `DTYPES`."""

    name: str
    values: torch.Tensor
    dtype: str


def choose_dtype(dtype: str | None, plan: Plan) -> str:
    """The type of a file's matrices: the one that is asked for, or that of the checkpoint.

    Raises:
        ValueError: There is no such type, or rows are no whole blocks of it.
    """
    if dtype is None:
        dtype = SAME.get(plan.config.dtype)
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is not one of {[*DTYPES]}; the weights are in {plan.config.dtype}.")
    config, block = plan.model.config, DTYPES[dtype].block
    width = "intermediate_size" if config.num_experts is None else "moe_intermediate_size"
    sizes = {name: getattr(config, name) for name in ("hidden_size", width)}
    sizes["num_attention_heads * head_dim"] = config.num_attention_heads * config.head_dim
    for name, size in sizes.items():
        if size % block:
            others = [other for other, row in DTYPES.items() if row.block == 1]
            raise ValueError(
                f"{name}={size} is not a multiple of {block}, which dtype={dtype!r} needs; choose one of {others}."
            )
    return dtype


def tensors(plan: Plan, architecture: Architecture, dtype: str) -> Iterator[Written]:
    """Reads one tensor of the checkpoint after the other, and makes those of the file, in float32.

    Raises:
        ValueError: A weight is not finite, or too large for `dtype`.
    """
    config = plan.model.config
    for ours in plan.reader.places:
        layer, place, kind = PLACE.fullmatch(ours).groups()  # pyright: ignore[reportOptionalMemberAccess] fits all
        (values,) = plan.reader.read(ours)
        values = values.float()
        parts = EXPERTS.get(place.removeprefix("mlp.experts."), ()) if ".experts." in place else (NAMES[place],)
        for part, rows in zip(parts, values.chunk(len(parts), dim=1) if len(parts) > 1 else (values,), strict=True):
            name = f"{file_name(part, layer)}.{kind or 'weight'}"
            if architecture.rotates_neighbours and part in ROTATED:
                rows = neighbours(rows, ROTATED[part](config))
            stored = "f32" if rows.ndim < 2 or part in FLOATS else dtype
            check_values(ours, rows, stored)
            yield Written(name, rows, stored)
    if rope_of(config)["rope_type"] == "llama3":
        yield Written(f"{file_name('ROPE_FREQS', None)}.weight", frequency_factors(config), "f32")


ROTATED: dict[str, Callable[[Any], int]] = {
    "ATTN_Q": lambda config: config.num_attention_heads,
    "ATTN_K": lambda config: config.num_key_value_heads,
}


def file_name(part: str, layer: str | None) -> str:
    """Llama.cpp's name of a tensor, without `.weight`."""
    from gguf import MODEL_TENSOR, TENSOR_NAMES

    return TENSOR_NAMES[MODEL_TENSOR[part]].format(bid=layer)


def neighbours(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Moves the features of each head so that the two that are turned together stand side by side.

    Args:
        rows: (heads * head size,) or (heads * head size, inputs).
        heads: Their number.
    """
    pairs = rows.unflatten(0, (heads, 2, -1))
    return pairs.transpose(1, 2).reshape(rows.shape)


def frequency_factors(config: Any) -> torch.Tensor:
    """A divisor of each rotary frequency, (head size / 2,), with which llama.cpp has transformers' scaled ones."""
    rope = rope_of(config)
    scaled, _ = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    return (rope["rope_theta"] ** -exponents / scaled.double()).float()


def check_values(name: str, values: torch.Tensor, dtype: str) -> None:
    """Raises a `ValueError` for weights that are not finite, or become so."""
    largest = values.abs().max().item() if values.numel() else 0.0
    if not largest <= torch.finfo(torch.float32).max:
        raise ValueError(f"The tensor '{name}' has weights that are not finite.")
    if dtype == "f16" and largest > torch.finfo(torch.float16).max:
        raise ValueError(
            f"The tensor '{name}' has a weight of {largest:.4g}, but dtype='f16' ends at 65504; choose one of "
            "['f32', 'bf16']."
        )


def encode(written: Written) -> tuple[Any, Any]:
    """The numbers of a tensor as they stand in the file, and `gguf`'s name of their type."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    kind = GGMLQuantizationType[written.dtype.upper()]
    return quantize(written.values.contiguous().numpy(), kind), kind
