"""The decoders that llama.cpp knows and Trine can be: their fields, and which of ours they have no counterpart of."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ...configuration.patterns import check_choice


class Architecture(NamedTuple):
    """One of llama.cpp's.

    Attributes:
        name: Its name there.
        family: The `model_type` of transformers that computes the same.
        rotates_neighbours: Whether its rotary encoding turns features 2i and 2i + 1; ours turns i and i + d / 2.
        has_frequency_factors: Whether it reads a factor for each rotary frequency.
        needs: Values that fields must have, beside what the family has no counterpart of.
    """

    name: str
    family: str
    rotates_neighbours: bool
    has_frequency_factors: bool
    needs: Mapping[str, Any]


EXPERTS = {"norm_topk_prob": True, "mlp_bias": False}
NO_BIAS = {"attention_bias": False}
# By qk_norm, and whether there are sparse layers.
ARCHITECTURES = {
    (False, False): Architecture("llama", "llama", True, True, {}),
    (False, True): Architecture("llama", "mixtral", True, True, {**EXPERTS, **NO_BIAS}),
    (True, False): Architecture("qwen3", "qwen3", False, False, NO_BIAS),
    (True, True): Architecture("qwen3moe", "qwen3_moe", False, False, {**EXPERTS, **NO_BIAS}),
}
SPARSE = {False: "dense", True: "sparse"}


def find_architecture(config: Any) -> Architecture:
    """Chooses llama.cpp's architecture for a config.

    Raises:
        ValueError: There is none; the message names the field, its value and what llama.cpp has.
    """
    sparse = "sparse" in config.mlp_layer_types
    architecture = ARCHITECTURES[config.qk_norm, sparse]
    for index, kind in enumerate(config.attention_types):
        if kind != "full":
            refuse(f"attention_types[{index}]", kind, "full", architecture)
    for index, kind in enumerate(config.mlp_layer_types):
        if kind != SPARSE[sparse]:
            refuse(f"mlp_layer_types[{index}]", kind, SPARSE[sparse], architecture)
    for name, value in {"hidden_act": "silu", **architecture.needs}.items():
        if getattr(config, name) != value:
            refuse(name, getattr(config, name), value, architecture)
    return architecture


def refuse(field: str, value: Any, needed: Any, architecture: Architecture) -> None:
    """Raises the `ValueError` for a field that llama.cpp has one value of."""
    raise ValueError(
        f"{field}={value!r} cannot be written as GGUF: llama.cpp's '{architecture.name}' has {needed!r} only."
    )


def add_fields(writer: Any, config: Any, architecture: Architecture) -> None:
    """Writes the sizes and numbers of a model.

    Args:
        writer: A `gguf.GGUFWriter` of the architecture.
        config: Ours.
    """
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_vocab_size(config.vocab_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_feed_forward_length(
        config.intermediate_size if config.num_experts is None else config.moe_intermediate_size
    )
    if config.num_experts is not None:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    rope = rope_of(config)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    ROPES[rope["rope_type"]](writer, config, rope)


def rope_of(config: Any) -> dict[str, Any]:
    """The rotary parameters of a model whose layers all have the same."""
    return config.rope_parameters_of(config.layer_types[0])


def check_rope(config: Any, architecture: Architecture) -> None:
    """Raises a `ValueError` for a scaling of frequencies that llama.cpp does not compute as transformers does."""
    rope = rope_of(config)
    check_choice("rope_parameters['rope_type'] of a GGUF file", rope["rope_type"], ROPES)
    if rope["rope_type"] == "llama3" and not architecture.has_frequency_factors:
        refuse("rope_parameters['rope_type']", "llama3", [name for name in ROPES if name != "llama3"], architecture)
    for name, needed in UNSCALED.items():
        if rope.get(name, needed) != needed:
            refuse(f"rope_parameters['{name}']", rope[name], needed, architecture)


# Of yarn: what llama.cpp has no field for.
UNSCALED = {"mscale": None, "mscale_all_dim": None, "truncate": True}


def add_nothing(writer: Any, config: Any, rope: Mapping[str, Any]) -> None:
    """Frequencies that are not scaled, or by a factor each, which is a tensor (`frequency_factors`)."""


def add_linear(writer: Any, config: Any, rope: Mapping[str, Any]) -> None:
    """Positions divided by a factor."""
    from gguf import RopeScalingType

    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(rope["factor"])


def add_yarn(writer: Any, config: Any, rope: Mapping[str, Any]) -> None:
    """YaRN (Peng et al. 2023, arXiv 2309.00071), with its factor on attention relative to llama.cpp's own."""
    from gguf import RopeScalingType

    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast") or 32.0)
    writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow") or 1.0)
    if rope.get("attention_factor") is not None:
        _, usual = ROPE_INIT_FUNCTIONS["yarn"](without_factor(config), "cpu")
        writer.add_rope_scaling_attn_factors(rope["attention_factor"] / usual)


def without_factor(config: Any) -> Any:
    """A copy of a config whose YaRN has its usual factor on attention."""
    rope = {name: value for name, value in rope_of(config).items() if name != "attention_factor"}
    return type(config)(**{**config.to_dict(), "rope_parameters": rope})


ROPES: dict[str, Callable[[Any, Any, Mapping[str, Any]], None]] = {
    "default": add_nothing,
    "linear": add_linear,
    "llama3": add_nothing,
    "yarn": add_yarn,
}
