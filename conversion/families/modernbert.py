"""ModernBERT: an encoder with pre-norm, rotary positions of two speeds, GeGLU and few biases."""

from collections.abc import Collection
from copy import deepcopy
from typing import Any

from ..weight_rules import Rule, SplitRows
from .base import Family, Head
from .llama import KINDS


LAYER = {
    "self_attn.o_proj": "attn.Wo",
    "mlp.down_proj": "mlp.Wo",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "mlp_norm",
}
TRUNK = [
    Rule("embed_tokens.weight", "embeddings.tok_embeddings.weight"),
    Rule("embedding_norm.{kind}", "embeddings.norm.{kind}"),
    Rule("norm.{kind}", "final_norm.{kind}"),
    Rule(
        [f"layers.{{layer}}.self_attn.{name}_proj.{{kind}}" for name in "qkv"],
        "layers.{layer}.attn.Wqkv.{kind}",
        SplitRows(),
    ),
    Rule(
        [f"layers.{{layer}}.mlp.{name}_proj.{{kind}}" for name in ("gate", "up")],
        "layers.{layer}.mlp.Wi.{kind}",
        SplitRows(),
    ),
    *(
        Rule(f"layers.{{layer}}.{ours}.{{kind}}", f"layers.{{layer}}.{theirs}.{{kind}}")
        for ours, theirs in LAYER.items()
    ),
]
TRANSFORM = [Rule("transform.{name}", "head.{name}")]
CLASSIFIER = [Rule("classifier.{kind}", "classifier.{kind}"), *TRANSFORM]
ANSWERS = [Rule("qa_outputs.{kind}", "classifier.{kind}"), *TRANSFORM]
# Fields of the transform before a head, and ours, which the layers share.
TRANSFORM_FIELDS = {"classifier_activation": "hidden_activation", "classifier_bias": "mlp_bias"}


def read(config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
    """Reads kinds, window and rotary parameters of layers; refuses a head with another activation or bias."""
    for name, shared in TRANSFORM_FIELDS.items():
        if not head.is_base and getattr(config, name) != getattr(config, shared):
            raise ValueError(
                f"{name}={getattr(config, name)!r} of model_type='modernbert' cannot be represented: the transform "
                f"before a head is as the feed-forwards are, with {shared}={getattr(config, shared)!r}."
            )
    used = sorted(set(config.layer_types))
    return {
        "attention_types": [KINDS[layer_type] for layer_type in config.layer_types],
        # Transformers' own reading of the width, both sides and the token itself, in tokens to each side.
        "sliding_window": config.local_attention // 2,
        "rope_parameters": {layer_type: deepcopy(config.rope_parameters[layer_type]) for layer_type in used},
    }


def write(config: Any, head: Head) -> dict[str, Any]:
    """Writes kinds, window and rotary parameters of layers, and the fields of its head."""
    rope = {layer_type: deepcopy(config.rope_parameters_of(layer_type)) for layer_type in config.layer_types}
    return {
        "layer_types": config.layer_types,
        "local_attention": 2 * config.sliding_window,
        "rope_parameters": rope,
        "cls_token_id": config.bos_token_id,  # as in the published ones
        "sep_token_id": config.eos_token_id,
        "classifier_activation": config.hidden_act,
        "classifier_bias": config.mlp_bias,
    }


MODERNBERT = Family(
    "modernbert",
    [
        Head("ModernBertModel", "TrineModel"),
        Head(
            "ModernBertForMaskedLM",
            "TrineForMaskedLM",
            [Rule("lm_head.{kind}", "decoder.{kind}"), *TRANSFORM],
            "decoder.weight",
        ),
        Head("ModernBertForSequenceClassification", "TrineForSequenceClassification", CLASSIFIER),
        Head("ModernBertForTokenClassification", "TrineForTokenClassification", CLASSIFIER),
        Head("ModernBertForQuestionAnswering", "TrineForQuestionAnswering", ANSWERS),
        Head("ModernBertForMultipleChoice", "TrineForMultipleChoice", CLASSIFIER),
    ],
    lambda config: TRUNK,
    names={
        "hidden_size": "hidden_size",
        "intermediate_size": "intermediate_size",
        "num_hidden_layers": "num_hidden_layers",
        "num_attention_heads": "num_attention_heads",
        "hidden_activation": "hidden_act",
        "max_position_embeddings": "max_position_embeddings",
        "norm_eps": "norm_eps",
        "norm_bias": "norm_bias",
        "attention_bias": "attention_bias",
        "mlp_bias": "mlp_bias",
        "attention_dropout": "attention_dropout",
        "classifier_dropout": "classifier_dropout",
        "classifier_pooling": "classifier_pooling",
    },
    constants={
        "norm_type": "layernorm",
        "embedding_norm": True,
        "first_attention_norm": False,
        "classifier_transform": True,
        "is_causal": False,
    },
    read=read,
    write=write,
    read_fields=["layer_types", "local_attention", "rope_parameters", *TRANSFORM_FIELDS],
    fixed={"decoder_bias": ([True], "the head for masked tokens has a bias")},
    training=["embedding_dropout", "mlp_dropout"],
    # How weights were first filled; what a loss looks at; kernels; what former versions wrote, said otherwise today.
    ignored=[
        *("initializer_cutoff_factor", "sparse_prediction", "sparse_pred_ignore_index", "deterministic_flash_attn"),
        *("repad_logits_with_grad", "reference_compile", "layer_norm_eps", "position_embedding_type"),
        *("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
    ],
)
