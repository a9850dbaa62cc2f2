"""GPT-2: a decoder with pre-norm and learned positions, whose projections are stored transposed, q, k and v as one."""

from collections.abc import Collection
from typing import Any

from ..weight_rules import NoBias, Rule, SplitRows, Transpose
from .base import Family, Head


LAYER = {
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
NORMS = {"input_layernorm": "ln_1", "post_attention_layernorm": "ln_2"}
ANSWERS = [Rule("qa_outputs.{kind}", "qa_outputs.{kind}")]
SCORES = [Rule("classifier.weight", "score.weight"), Rule("classifier.bias", [], NoBias())]
TRUNK = [
    Rule("embed_tokens.weight", "wte.weight"),
    Rule("positions.embed_positions.weight", "wpe.weight"),
    Rule("norm.{kind}", "ln_f.{kind}"),
    Rule(
        [f"layers.{{layer}}.self_attn.{name}_proj.{{kind}}" for name in "qkv"],
        "h.{layer}.attn.c_attn.{kind}",
        SplitRows(transposed=True),
    ),
    *(
        Rule(f"layers.{{layer}}.{ours}.{{kind}}", f"h.{{layer}}.{theirs}.{{kind}}", Transpose())
        for ours, theirs in LAYER.items()
    ),
    *(Rule(f"layers.{{layer}}.{ours}.{{kind}}", f"h.{{layer}}.{theirs}.{{kind}}") for ours, theirs in NORMS.items()),
]


def read(config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
    """Reads the classifier's dropout; refuses two different dropouts of embeddings and residuals."""
    if config.embd_pdrop != config.resid_pdrop:
        raise ValueError(
            f"embd_pdrop={config.embd_pdrop} and resid_pdrop={config.resid_pdrop} of model_type='gpt2' cannot be "
            "represented: there is one hidden_dropout. They act in training only; set them equal in config.json."
        )
    fields: dict[str, Any] = {"classifier_dropout": 0.0}
    if head.trine == "TrineForTokenClassification":
        fields["classifier_dropout"] = getattr(config, "classifier_dropout", 0.1)
    return fields


def write(config: Any, head: Head) -> dict[str, Any]:
    """Writes both dropouts of embeddings and residuals from `hidden_dropout`, and the classifier's."""
    fields = {"embd_pdrop": config.hidden_dropout}
    if head.trine == "TrineForTokenClassification":
        fields["classifier_dropout"] = config.classifier_dropout
    return fields


GPT2 = Family(
    "gpt2",
    [
        Head("GPT2Model", "TrineModel"),
        Head("GPT2LMHeadModel", "TrineForCausalLM", [Rule("lm_head.weight", "lm_head.weight")], "lm_head.weight"),
        Head("GPT2ForSequenceClassification", "TrineForSequenceClassification", SCORES),
        Head(
            "GPT2ForTokenClassification",
            "TrineForTokenClassification",
            [Rule("classifier.{kind}", "classifier.{kind}")],
        ),
        Head("GPT2ForQuestionAnswering", "TrineForQuestionAnswering", ANSWERS),
    ],
    lambda config: TRUNK,
    names={
        "n_embd": "hidden_size",
        "n_inner": "intermediate_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
        "activation_function": "hidden_act",
        "resid_pdrop": "hidden_dropout",
        "attn_pdrop": "attention_dropout",
        "layer_norm_epsilon": "norm_eps",
    },
    constants={
        "position_type": "learned",
        "norm_type": "layernorm",
        "gated_mlp": False,
        "attention_bias": True,
        "mlp_bias": True,
    },
    read=read,
    write=write,
    read_fields=["embd_pdrop", "classifier_dropout"],
    fixed={
        "scale_attn_weights": ([True], "scores are always divided by sqrt(head_dim)"),
        "scale_attn_by_inverse_layer_idx": ([False], "scores are scaled alike in all layers"),
    },
    # The same function in another precision; of the heads with two tasks; of the original release.
    ignored=[
        "reorder_and_upcast_attn",
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
        *("n_ctx", "n_special", "predict_special_tokens"),
    ],
    buffers=[r"(^|\.)h\.\d+\.attn\.(masked_)?bias$"],
)
