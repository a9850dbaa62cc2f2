"""T5, versions 1.0 and 1.1: pre-norm stacks with relative positions, whose scores are not scaled."""

from collections.abc import Collection
from typing import Any

from ..config_rules import check_source
from ..weight_rules import Rule
from .base import Family, Head


# Fields of both stacks in ours.
STACK = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "d_ff": "intermediate_size",
    "num_heads": "num_attention_heads",
    "d_kv": "head_dim",
    "relative_attention_num_buckets": "relative_attention_num_buckets",
    "relative_attention_max_distance": "relative_attention_max_distance",
    "layer_norm_epsilon": "norm_eps",
    "dense_act_fn": "hidden_act",
    "is_gated_act": "gated_mlp",
    "dropout_rate": "hidden_dropout",
    "use_cache": "use_cache",
    "pad_token_id": "pad_token_id",
    "eos_token_id": "eos_token_id",
}
# Which of ours they are: the positions of any text have a bias, so that the length says nothing.
CONSTANTS = {"position_type": "relative", "attention_scale": 1.0, "max_position_embeddings": 512}
OWN = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "id2label",
    "label2id",
    "problem_type",
)
READ_FIELDS = ["num_layers", "num_decoder_layers", "feed_forward_proj", "scale_decoder_outputs", "tie_word_embeddings"]
ATTENTION = {f"{name}_proj": name for name in "qkvo"}


def stack_rules(side: str, feed_forward: int, ours: str) -> list[Rule]:
    """The rules of one stack, named `ours` in Trine; its feed-forward is sub-layer number `feed_forward` in T5."""
    layer, block = f"{ours}layers.{{layer}}.", f"{side}.block.{{layer}}.layer."
    mlp = f"{block}{feed_forward}."
    rules = [
        Rule(
            f"{ours}positions.relative_attention_bias.weight",
            f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        Rule(f"{ours}norm.weight", f"{side}.final_layer_norm.weight"),
        Rule(f"{layer}input_layernorm.weight", f"{block}0.layer_norm.weight"),
        Rule(f"{layer}post_attention_layernorm.weight", f"{mlp}layer_norm.weight"),
        Rule(f"{layer}mlp.down_proj.weight", f"{mlp}DenseReluDense.wo.weight"),
        *(
            Rule(f"{layer}self_attn.{proj}.weight", f"{block}0.SelfAttention.{name}.weight")
            for proj, name in ATTENTION.items()
        ),
    ]
    if side == "decoder":
        rules += [Rule(f"{layer}cross_attention_layernorm.weight", f"{block}1.layer_norm.weight")]
        rules += [
            Rule(f"{layer}cross_attn.{proj}.weight", f"{block}1.EncDecAttention.{name}.weight")
            for proj, name in ATTENTION.items()
        ]
    return rules


def feed_forward_rules(side: str, feed_forward: int, ours: str, gated: bool) -> list[Rule]:
    """The rules of the first projections, which have other names where they are gated."""
    names = {"gate_proj": "wi_0", "up_proj": "wi_1"} if gated else {"up_proj": "wi"}
    layer = f"{side}.block.{{layer}}.layer.{feed_forward}.DenseReluDense."
    return [Rule(f"{ours}layers.{{layer}}.mlp.{proj}.weight", f"{layer}{name}.weight") for proj, name in names.items()]


class T5Family(Family):
    """How T5 maps to Trine: its config describes both stacks at once, and its tensors have no prefix."""

    def prefix(self, head: Head) -> str:
        """Always empty: T5's tensors have no prefix."""
        return ""

    def read_config(self, config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
        """Our fields for T5's: those of one stack, or of both."""
        check_source(config, {*STACK, *READ_FIELDS}, self.fixed, self.ignored)
        stack = CONSTANTS | {ours: getattr(config, theirs) for theirs, ours in STACK.items()}
        stack["attention_dropout"] = config.dropout_rate
        encoder = stack | {"num_hidden_layers": config.num_layers, "is_causal": False}
        if head.trine == "TrineModel":
            return encoder
        own = {name: getattr(config, name) for name in OWN if hasattr(config, name)}
        return own | {
            "encoder": encoder,
            "decoder": stack | {"num_hidden_layers": config.num_decoder_layers},
            # Transformers ties by what the file holds: version 1.1 has a head of its own.
            "tie_word_embeddings": "lm_head.weight" not in tensors,
            "logit_scale": config.d_model**-0.5 if config.scale_decoder_outputs else 1.0,
        }

    def write_config(self, config: Any, head: Head) -> dict[str, Any]:
        """T5's fields for ours."""
        encoder, decoder = (config, config) if head.trine == "TrineModel" else (config.encoder, config.decoder)
        fields = {theirs: getattr(encoder, ours) for theirs, ours in STACK.items()}
        activation = {"gelu_new": "gelu"}.get(encoder.hidden_act, encoder.hidden_act)
        fields |= {name: getattr(config, name) for name in OWN if hasattr(config, name)}
        return fields | {
            "use_cache": decoder.use_cache,
            "num_layers": encoder.num_hidden_layers,
            "num_decoder_layers": decoder.num_hidden_layers,
            "feed_forward_proj": f"gated-{activation}" if encoder.gated_mlp else encoder.hidden_act,
            "scale_decoder_outputs": getattr(config, "logit_scale", 1.0) != 1.0,
        }

    def rules(self, config: Any, head: Head) -> list[Rule]:
        """The rules of one stack, or of both, with the embeddings that they share."""
        gated = config.is_gated_act
        if head.trine == "TrineModel":
            embeddings = Rule("embed_tokens.weight", "shared.weight")
            return [embeddings, *stack_rules("encoder", 1, ""), *feed_forward_rules("encoder", 1, "", gated)]
        prefix = "" if head.is_base else "model."
        return [
            *head.rules,
            Rule(f"{prefix}decoder.embed_tokens.weight", "shared.weight"),
            *stack_rules("encoder", 1, f"{prefix}encoder."),
            *feed_forward_rules("encoder", 1, f"{prefix}encoder.", gated),
            *stack_rules("decoder", 2, f"{prefix}decoder."),
            *feed_forward_rules("decoder", 2, f"{prefix}decoder.", gated),
        ]


T5 = T5Family(
    "t5",
    [
        Head("T5Model", "TrineSeq2SeqModel"),
        Head("T5EncoderModel", "TrineModel"),
        Head(
            "T5ForConditionalGeneration",
            "TrineForConditionalGeneration",
            [Rule("lm_head.weight", "lm_head.weight")],
            "lm_head.weight",
        ),
    ],
    lambda config: [],
    # How it was first filled; of classes that are not converted; of transformers' own devices.
    ignored=["initializer_factor", "classifier_dropout", "n_positions", "is_encoder_decoder"],
    # An unused bias of the first release.
    buffers=[r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$"],
)
