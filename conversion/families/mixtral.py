"""Mixtral and Qwen3-MoE: decoders with experts, which are stored one by one and which we stack."""

from collections.abc import Collection
from typing import Any

from transformers.utils import logging

from ..weight_rules import Rule, StackExperts
from .base import Family, Head
from .llama import BUFFERS, NAMES, READ_FIELDS, TRUNK, decoder_heads, read, write_window


logger = logging.get_logger(__name__)

ROUTER_NAMES = {"num_experts_per_tok": "num_experts_per_tok"}
ROUTER_FIELDS = ["output_router_logits", "router_aux_loss_coef"]


def expert_rules(module: str, gate: str, up: str, down: str) -> list[Rule]:
    """The rules of a sparse layer, with the source's names of the module and of an expert's projections."""
    names = {part: f"layers.{{layer}}.{module}.experts.{{expert}}.{part}.weight" for part in (gate, up, down)}
    return [
        Rule("layers.{layer}.mlp.experts.gate_up_proj", [names[gate], names[up]], StackExperts(2)),
        Rule("layers.{layer}.mlp.experts.down_proj", names[down], StackExperts(1)),
        Rule("layers.{layer}.mlp.gate.weight", f"layers.{{layer}}.{module}.gate.weight"),
    ]


MIXTRAL_TRUNK = [*expert_rules("block_sparse_moe", "w1", "w3", "w2"), *TRUNK]
QWEN3_MOE_TRUNK = [*expert_rules("mlp", "gate_proj", "up_proj", "down_proj"), *TRUNK]


def read_router(config: Any) -> dict[str, Any]:
    """Reads the coefficient of the load-balancing loss, so that training adds it exactly where the source does.

    The source adds it where it returns router logits; ours wherever it has a weight.
    """
    coefficient = config.router_aux_loss_coef
    if not config.output_router_logits and coefficient:
        logger.warning(
            f"output_router_logits=False of model_type='{config.model_type}' trains without a load-balancing loss, "
            f"whatever router_aux_loss_coef={coefficient} says. So does the result: its router_aux_loss_coef is 0."
        )
        coefficient = 0.0
    return {
        "output_router_logits": config.output_router_logits,
        "router_aux_loss_coef": coefficient,
        "router_aux_loss_reduction": "pooled",
    }


def write_router(config: Any) -> dict[str, Any]:
    """Writes the coefficient of the load-balancing loss; warns where layers are balanced one by one."""
    if config.router_aux_loss_reduction != "pooled" and config.mlp_layer_types.count("sparse") > 1:
        logger.warning(
            f"router_aux_loss_reduction={config.router_aux_loss_reduction!r} has no counterpart: the result will be "
            "trained with the load-balancing loss of all layers together. Outputs are the same."
        )
    coefficient = config.router_aux_loss_coef
    return {
        "output_router_logits": config.output_router_logits or coefficient > 0,
        "router_aux_loss_coef": coefficient,
    }


def read_mixtral(config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
    """Reads a Mixtral's fields."""
    return read(config, head, tensors) | read_router(config) | {"intermediate_size": config.intermediate_size}


def write_mixtral(config: Any, head: Head) -> dict[str, Any]:
    """Writes a Mixtral's fields."""
    return write_window(config, head) | write_router(config)


def read_qwen3_moe(config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
    """Reads a Qwen3-MoE's fields, with the kind of each layer's feed-forward."""
    sparse = [
        layer not in config.mlp_only_layers
        and config.num_local_experts > 0
        and (layer + 1) % config.decoder_sparse_step == 0
        for layer in range(config.num_hidden_layers)
    ]
    router = read_router(config)
    return (
        read(config, head, tensors)
        | router
        | {"mlp_layer_types": [("dense", "sparse")[is_sparse] for is_sparse in sparse]}
    )


def write_qwen3_moe(config: Any, head: Head) -> dict[str, Any]:
    """Writes a Qwen3-MoE's fields, with the dense layers by number."""
    dense = [layer for layer, kind in enumerate(config.mlp_layer_types) if kind == "dense"]
    windowed = "sliding" in config.attention_types
    fields = {"mlp_only_layers": dense, "use_sliding_window": windowed}
    return write_window(config, head) | write_router(config) | fields


MIXTRAL = Family(
    "mixtral",
    decoder_heads("Mixtral"),
    lambda config: MIXTRAL_TRUNK,
    NAMES | ROUTER_NAMES | {"num_local_experts": "num_experts", "intermediate_size": "moe_intermediate_size"},
    {"mlp_layer_types": "sparse", "norm_topk_prob": True},
    read=read_mixtral,
    write=write_mixtral,
    read_fields=[*READ_FIELDS, *ROUTER_FIELDS],
    fixed={"router_jitter_noise": ([0, 0.0], "the router has no noise in training")},
    buffers=BUFFERS,
)
QWEN3_MOE = Family(
    "qwen3_moe",
    decoder_heads("Qwen3Moe"),
    lambda config: QWEN3_MOE_TRUNK,
    {
        **NAMES,
        **ROUTER_NAMES,
        "num_local_experts": "num_experts",
        "moe_intermediate_size": "moe_intermediate_size",
        "norm_topk_prob": "norm_topk_prob",
        "attention_bias": "attention_bias",
    },
    {"qk_norm": True},
    read=read_qwen3_moe,
    write=write_qwen3_moe,
    read_fields=[
        *READ_FIELDS,
        *ROUTER_FIELDS,
        *("use_sliding_window", "max_window_layers", "decoder_sparse_step", "mlp_only_layers", "num_experts"),
    ],
    buffers=BUFFERS,
)
