"""BART: an encoder-decoder with post-norm, learned positions and biases, whose stacks may differ in size."""

from collections.abc import Collection
from typing import Any

import torch

from ..config_rules import check_source
from ..weight_rules import RollRows, Rule, Zeros
from .base import Family, Head


# The first rows of a table of positions serve no token.
UNUSED_POSITIONS = 2
BOTH = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "activation_function": "hidden_act",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "scale_embedding": "scale_embedding",
    "init_std": "initializer_range",
    "use_cache": "use_cache",
    "pad_token_id": "pad_token_id",
}
# Of one stack, after its name.
EACH = {"layers": "num_hidden_layers", "attention_heads": "num_attention_heads", "ffn_dim": "intermediate_size"}
STACKS = ("encoder", "decoder")
CONSTANTS = {
    "position_type": "learned",
    "norm_type": "layernorm",
    "norm_position": "post",
    "norm_eps": 1e-5,
    "embedding_norm": True,
    "gated_mlp": False,
    "attention_bias": True,
    "mlp_bias": True,
}
OWN = (
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "classifier_dropout"),
    *("id2label", "label2id", "problem_type"),
)
LAYER = {
    "self_attn.o_proj": "self_attn.out_proj",
    "cross_attn.o_proj": "encoder_attn.out_proj",
    **{f"self_attn.{name}_proj": f"self_attn.{name}_proj" for name in "qkv"},
    **{f"cross_attn.{name}_proj": f"encoder_attn.{name}_proj" for name in "qkv"},
    "input_layernorm": "self_attn_layer_norm",
    "cross_attention_layernorm": "encoder_attn_layer_norm",
    "post_attention_layernorm": "final_layer_norm",
    "mlp.up_proj": "fc1",
    "mlp.down_proj": "fc2",
}


def stack_rules(side: str) -> list[Rule]:
    """The rules of one stack; rules of cross-attention match in a decoder only."""
    table = Rule(
        f"{side}.positions.embed_positions.weight", f"{side}.embed_positions.weight", RollRows(UNUSED_POSITIONS)
    )
    norm = Rule(f"{side}.embedding_norm.{{kind}}", f"{side}.layernorm_embedding.{{kind}}")
    layer = f"{side}.layers.{{layer}}."
    return [
        table,
        norm,
        *(Rule(f"{layer}{ours}.{{kind}}", f"{layer}{theirs}.{{kind}}") for ours, theirs in LAYER.items()),
    ]


TRUNK = [Rule("decoder.embed_tokens.weight", "shared.weight"), *stack_rules("encoder"), *stack_rules("decoder")]


class BartFamily(Family):
    """How BART maps to Trine: its config describes both stacks with one set of fields."""

    def read_config(self, config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
        """Our fields for BART's, which are split over both stacks."""
        each = {f"{side}_{theirs}" for side in STACKS for theirs in EACH}
        check_source(config, {*BOTH, *each, *OWN, "max_position_embeddings"}, self.fixed, self.ignored, self.training)
        both = CONSTANTS | {ours: getattr(config, theirs) for theirs, ours in BOTH.items()}
        both["max_position_embeddings"] = config.max_position_embeddings + UNUSED_POSITIONS
        stacks = {
            side: both | {ours: getattr(config, f"{side}_{theirs}") for theirs, ours in EACH.items()}
            for side in STACKS
        }
        return {**{name: getattr(config, name) for name in OWN if hasattr(config, name)}, **stacks}

    def write_config(self, config: Any, head: Head) -> dict[str, Any]:
        """BART's fields for ours, which are joined from both stacks."""
        fields = {theirs: getattr(config.decoder, ours) for theirs, ours in BOTH.items()}
        for side in STACKS:
            fields |= {f"{side}_{theirs}": getattr(getattr(config, side), ours) for theirs, ours in EACH.items()}
        fields["max_position_embeddings"] = config.decoder.max_position_embeddings - UNUSED_POSITIONS
        return {**fields, **{name: getattr(config, name) for name in OWN}}

    def rules(self, config: Any, head: Head) -> list[Rule]:
        """The rules of both stacks; a head also has a bias, which must be zero."""
        rules = super().rules(config, head)
        if head.is_base:
            return rules
        dtype = config.dtype or torch.float32
        return [*rules, Rule([], "final_logits_bias", Zeros(1, config.vocab_size, dtype=dtype))]


BART = BartFamily(
    "bart",
    [
        Head("BartModel", "TrineSeq2SeqModel"),
        Head("BartForConditionalGeneration", "TrineForConditionalGeneration", tied="lm_head.weight"),
    ],
    lambda config: TRUNK,
    training=["activation_dropout", "encoder_layerdrop", "decoder_layerdrop"],
    fixed={
        "normalize_before": ([False], "norms stand after each sub-layer"),
        "normalize_embedding": ([True], "embeddings are normalised"),
        "add_final_layer_norm": ([False], "post-norm stacks end with the norm of their last layer"),
        "add_bias_logits": ([False], "the head has no bias"),
        "static_position_embeddings": ([False], "positions are learned"),
        "tie_word_embeddings": ([True], "its three tables of tokens are one"),
    },
    ignored=["num_hidden_layers", "extra_pos_embeddings", "classif_dropout"],  # of former versions, read by nothing
)
