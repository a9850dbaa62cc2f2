"""ViT: an encoder of image patches with pre-norm, learned positions, a class token and biases everywhere."""

from collections.abc import Collection
from typing import Any

from ..weight_rules import Reshape, Rule
from .base import Family, Head


NAMES = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "norm_eps",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "num_channels": "num_channels",
}
CONSTANTS = {
    "input_type": "image",
    "position_type": "learned",
    "use_cls_token": True,
    "num_register_tokens": 0,
    "norm_type": "layernorm",
    "norm_position": "pre",
    "gated_mlp": False,
    "attention_bias": True,
    "mlp_bias": True,
    "is_causal": False,
    "classifier_pooling": "cls",
    "add_pooling_layer": False,
}
FIXED = {
    "qkv_bias": ([True], "either all four projections of attention have biases, or none has"),
    "pooler_act": (["tanh"], "the pooler always has this activation"),
}
LAYER = {
    "self_attn.q_proj": "attention.attention.query",
    "self_attn.k_proj": "attention.attention.key",
    "self_attn.v_proj": "attention.attention.value",
    "self_attn.o_proj": "attention.output.dense",
    "input_layernorm": "layernorm_before",
    "mlp.up_proj": "intermediate.dense",
    "mlp.down_proj": "output.dense",
    "post_attention_layernorm": "layernorm_after",
}


def side(config: Any, name: str) -> int:
    """The height and width that a field gives as one number, or as two equal ones."""
    value = getattr(config, name)
    sides = {*value} if isinstance(value, list | tuple) else {value}
    if len(sides) > 1:
        raise ValueError(
            f"{name}={value!r} of model_type='{config.model_type}' cannot be represented: images and patches that "
            "positions are made for are square."
        )
    return sides.pop()


def trunk(config: Any) -> list[Rule]:
    """The rules of an encoder of patches."""
    patch, vector = side(config, "patch_size"), Reshape(1, 1, -1)
    return [
        Rule("embed_tokens.cls_token", "embeddings.cls_token", vector),
        Rule("embed_tokens.mask_token", "embeddings.mask_token", vector),
        Rule("embed_tokens.position_embeddings", "embeddings.position_embeddings", Reshape(1, -1, config.hidden_size)),
        Rule(
            "embed_tokens.projection.weight",
            "embeddings.patch_embeddings.projection.weight",
            Reshape(-1, config.num_channels, patch, patch),
        ),
        Rule("embed_tokens.projection.bias", "embeddings.patch_embeddings.projection.bias"),
        *(
            Rule(f"layers.{{layer}}.{ours}.{{kind}}", f"encoder.layer.{{layer}}.{theirs}.{{kind}}")
            for ours, theirs in LAYER.items()
        ),
        Rule("norm.{kind}", "layernorm.{kind}"),
        Rule("pooler.dense.{kind}", "pooler.dense.{kind}"),
    ]


def read(config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
    """Reads sizes, whether there is a pooler and a mask token; refuses a decoder of larger patches."""
    fields: dict[str, Any] = {name: side(config, name) for name in ("image_size", "patch_size")}
    fields["use_mask_token"] = any(name.endswith("embeddings.mask_token") for name in tensors)
    if head.is_base:
        fields["add_pooling_layer"] = "pooler.dense.weight" in tensors
        if fields["add_pooling_layer"] and config.pooler_output_size != config.hidden_size:
            raise ValueError(
                f"pooler_output_size={config.pooler_output_size} of model_type='{config.model_type}' cannot be "
                f"represented: the pooler is as wide as hidden_size={config.hidden_size}."
            )
    if head.source == "ViTForMaskedImageModeling" and config.encoder_stride != fields["patch_size"]:
        raise ValueError(
            f"encoder_stride={config.encoder_stride} of model_type='{config.model_type}' cannot be represented: a "
            f"hidden patch is painted in its own size, patch_size={fields['patch_size']}."
        )
    return fields


def write(config: Any, head: Head) -> dict[str, Any]:
    """Writes the size of what is painted for a hidden patch."""
    return {"encoder_stride": getattr(config, "patch_size", None)}


VIT = Family(
    "vit",
    [
        Head("ViTModel", "TrineModel"),
        Head(
            "ViTForImageClassification",
            "TrineForImageClassification",
            [Rule("classifier.{kind}", "classifier.{kind}")],
        ),
        Head(
            "ViTForMaskedImageModeling",
            "TrineForMaskedImageModeling",
            [
                Rule("decoder.weight", "decoder.0.weight", Reshape(0, 0, 1, 1)),
                Rule("decoder.bias", "decoder.0.bias"),
            ],
        ),
    ],
    trunk,
    names=NAMES,
    constants=CONSTANTS,
    read=read,
    write=write,
    read_fields=["encoder_stride", "pooler_output_size"],
    fixed=FIXED,
)
