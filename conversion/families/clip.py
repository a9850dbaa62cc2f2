"""CLIP and SigLIP: a stack for texts and one for images, both pre-norm with learned positions and biases everywhere.

CLIP reads texts from left to right, normalises the embedded patches, and has a class token; SigLIP reads texts both
ways and their last place, padding or not, and pools patches by the attention of a learned query.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ..config_rules import check_source
from ..weight_rules import NoBias, Reshape, Rule, SplitRows
from .base import Family, Head
from .vit import side


BOTH = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "attention_dropout": "attention_dropout",
    "layer_norm_eps": "norm_eps",
    "initializer_range": "initializer_range",
}
TEXT = {
    **BOTH,
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
    "pad_token_id": "pad_token_id",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
}
VISION = {**BOTH, "num_channels": "num_channels"}
CONSTANTS = {
    "position_type": "learned",
    "norm_type": "layernorm",
    "norm_position": "pre",
    "gated_mlp": False,
    "attention_bias": True,
    "mlp_bias": True,
    "add_pooling_layer": False,
}
IMAGES = {"input_type": "image", "is_causal": False, "num_register_tokens": 0, "use_mask_token": False}
LAYER = {
    **{f"self_attn.{name}_proj": f"self_attn.{name}_proj" for name in "qkv"},
    "self_attn.o_proj": "self_attn.out_proj",
    "input_layernorm": "layer_norm1",
    "mlp.up_proj": "mlp.fc1",
    "mlp.down_proj": "mlp.fc2",
    "post_attention_layernorm": "layer_norm2",
}
LAYERS = [
    Rule(f"layers.{{layer}}.{ours}.{{kind}}", f"encoder.layers.{{layer}}.{theirs}.{{kind}}")
    for ours, theirs in LAYER.items()
]
# A single stack, and what makes its vectors.
TEXT_TRUNK = [
    Rule("embed_tokens.weight", "embeddings.token_embedding.weight"),
    Rule("positions.embed_positions.weight", "embeddings.position_embedding.weight"),
    *LAYERS,
    Rule("norm.{kind}", "final_layer_norm.{kind}"),
]
POOLING = [
    Rule("vision_pooling.probe", "vision_model.head.probe", Reshape(1, 1, -1)),
    *(
        Rule(
            [f"vision_pooling.attention.{name}_proj.{kind}" for name in "qkv"],
            f"vision_model.head.attention.in_proj_{kind}",
            SplitRows(),
        )
        for kind in ("weight", "bias")
    ),
    Rule("vision_pooling.attention.o_proj.{kind}", "vision_model.head.attention.out_proj.{kind}"),
    Rule("vision_pooling.layernorm.{kind}", "vision_model.head.layernorm.{kind}"),
    Rule("vision_pooling.mlp.up_proj.{kind}", "vision_model.head.mlp.fc1.{kind}"),
    Rule("vision_pooling.mlp.down_proj.{kind}", "vision_model.head.mlp.fc2.{kind}"),
]


def vision_trunk(config: Any) -> list[Rule]:
    """The rules of a stack that reads patches; those of tensors that a family lacks match nothing."""
    patch = side(config, "patch_size")
    weight = Reshape(-1, config.num_channels, patch, patch)
    return [
        Rule("embed_tokens.projection.weight", "embeddings.patch_embedding.weight", weight),
        Rule("embed_tokens.position_embeddings", "embeddings.position_embedding.weight"),
        *LAYERS,
        Rule("norm.{kind}", "post_layernorm.{kind}"),
    ]


CLIP_VISION = [
    Rule("embed_tokens.cls_token", "embeddings.class_embedding"),
    Rule("embed_tokens.projection.bias", [], NoBias()),
    Rule("embedding_norm.{kind}", "pre_layrnorm.{kind}"),  # the name is misspelt there
]
SIGLIP_VISION = [Rule("embed_tokens.projection.bias", "embeddings.patch_embedding.bias")]


def read_text(config: Any, ignored: Collection[str], is_causal: bool) -> dict[str, Any]:
    """Our fields of the stack that reads texts."""
    check_source(config, TEXT, {}, ignored)
    fields = {ours: getattr(config, theirs) for theirs, ours in TEXT.items() if hasattr(config, theirs)}
    return {**fields, **CONSTANTS, "is_causal": is_causal}


def read_vision(config: Any, ignored: Collection[str], has_class: bool) -> dict[str, Any]:
    """Our fields of the stack that reads images."""
    check_source(config, {*VISION, "image_size", "patch_size"}, {}, ignored)
    fields = {ours: getattr(config, theirs) for theirs, ours in VISION.items() if hasattr(config, theirs)}
    sizes = {name: side(config, name) for name in ("image_size", "patch_size")}
    return {**fields, **sizes, **CONSTANTS, **IMAGES, "use_cls_token": has_class, "embedding_norm": has_class}


def without_foreign_ids(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields without ids of special tokens outside the vocabulary, as SigLIP's defaults are: it reads none."""
    foreign = {
        name: None
        for name in ("pad_token_id", "bos_token_id", "eos_token_id")
        if isinstance(fields[name], int) and not 0 <= fields[name] < fields["vocab_size"]
    }
    return fields | foreign


def write_stack(config: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """A stack's fields in those of the source."""
    fields = {theirs: getattr(config, ours) for theirs, ours in names.items()}
    if config.input_type == "image":
        fields |= {name: getattr(config, name) for name in ("image_size", "patch_size")}
    return fields


class DualFamily(Family):
    """How a model of texts and images maps to `TrineDualEncoder`: its config holds one for each."""

    def rules(self, config: Any, head: Head) -> list[Rule]:
        """The rules of both stacks, each below its name, which is the same on both sides, and those between them."""
        towers = {"text_model.": TEXT_TRUNK, "vision_model.": vision_trunk(config.vision_config)}
        towers["vision_model."] = [*towers["vision_model."], *self.trunk(config)]
        return [*head.rules, *(rule.below(name, name) for name, rules in towers.items() for rule in rules)]


class ClipFamily(DualFamily):
    """How CLIP maps to Trine."""

    def read_config(self, config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
        """Our fields for CLIP's; the first checkpoints name a wrong end of a text, and look for the highest id."""
        read = {"text_config", "vision_config", "projection_dim", "logit_scale_init_value"}
        check_source(config, read, {}, ["initializer_factor"])
        unread = ["initializer_factor", "projection_dim"]
        text, vision = config.text_config, config.vision_config
        return {
            "text_config": read_text(text, unread, is_causal=True),
            "vision_config": read_vision(vision, unread, has_class=True),
            "projection_dim": config.projection_dim,
            "text_pooling": "highest_id" if text.eos_token_id == 2 else "eos",
            "vision_pooling": "cls",
            "text_projection": "linear",
            "vision_projection": "linear",
            "contrastive_loss": "softmax",
            "logit_scale_init_value": config.logit_scale_init_value,
        }

    def write_config(self, config: Any, head: Head) -> dict[str, Any]:
        """CLIP's fields for ours."""
        sizes = {"projection_dim": config.projection_dim}
        return {
            "text_config": {**write_stack(config.text_config, TEXT), **sizes},
            "vision_config": {**write_stack(config.vision_config, VISION), **sizes},
            "logit_scale_init_value": config.logit_scale_init_value,
            **sizes,
        }


class SiglipFamily(DualFamily):
    """How SigLIP maps to Trine. Its vectors of images are pooled states, and those of texts have a projection."""

    def read_config(self, config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
        """Our fields for SigLIP's."""
        check_source(config, {"text_config", "vision_config"}, {}, ["initializer_factor"])
        text, vision = config.text_config, config.vision_config
        if not vision.vision_use_head:
            raise ValueError(
                f"vision_use_head=False of model_type='{config.model_type}' cannot be represented: without it there "
                "is no vector of an image."
            )
        if text.projection_size != vision.hidden_size:
            raise ValueError(
                f"projection_size={text.projection_size} of model_type='{config.model_type}' cannot be represented: "
                f"vectors of texts and images are compared, and the latter have hidden_size={vision.hidden_size}."
            )
        return {
            "text_config": without_foreign_ids(read_text(text, ["projection_size"], is_causal=False)),
            "vision_config": read_vision(vision, ["vision_use_head"], has_class=False),
            "projection_dim": text.projection_size,
            "text_pooling": "end",
            "vision_pooling": "attention",
            "text_projection": "affine",
            "vision_projection": "none",
            "contrastive_loss": "sigmoid",
        }

    def write_config(self, config: Any, head: Head) -> dict[str, Any]:
        """SigLIP's fields for ours."""
        text = {**write_stack(config.text_config, TEXT), "projection_size": config.projection_dim}
        return {"text_config": text, "vision_config": write_stack(config.vision_config, VISION)}


CLIP = ClipFamily(
    "clip",
    [
        Head(
            "CLIPModel",
            "TrineDualEncoder",
            [
                Rule("text_projection.weight", "text_projection.weight"),
                Rule("visual_projection.weight", "visual_projection.weight"),
                Rule("logit_scale", "logit_scale"),
            ],
        ),
    ],
    lambda config: CLIP_VISION,
    buffers=[r"embeddings\.position_ids$"],
)
SIGLIP = SiglipFamily(
    "siglip",
    [
        Head(
            "SiglipModel",
            "TrineDualEncoder",
            [
                *POOLING,
                Rule("text_projection.{kind}", "text_model.head.{kind}"),
                Rule("logit_scale", "logit_scale", Reshape(1)),
                Rule("logit_bias", "logit_bias", Reshape(1)),
            ],
        ),
    ],
    lambda config: SIGLIP_VISION,
    buffers=[r"embeddings\.position_ids$"],
)
