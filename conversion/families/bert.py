"""BERT and RoBERTa: encoders with post-norm, learned positions, segments and biases everywhere.

MiniLM and multilingual-e5 are BERTs; XLM-RoBERTa is a RoBERTa. The two differ in where positions begin and in heads.
"""

from collections.abc import Collection, Sequence
from typing import Any

from ..weight_rules import MOVE, RollRows, Rule
from .base import Family, Head


NAMES = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "layer_norm_eps": "norm_eps",
}
CONSTANTS = {
    "position_type": "learned",
    "norm_type": "layernorm",
    "norm_position": "post",
    "embedding_norm": True,
    "gated_mlp": False,
    "attention_bias": True,
    "mlp_bias": True,
    "is_causal": False,
    "classifier_pooling": "cls",
    "add_pooling_layer": True,
}
FIXED = {
    "position_embedding_type": (["absolute"], "relative positions of this kind have no counterpart"),
    "tie_word_embeddings": ([True], "its separate output weights come with two biases"),
}
# Of TensorFlow's first release; nothing reads them.
IGNORED = [
    *("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
    *("pooler_size_per_head", "pooler_type"),
]
LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.o_proj": "attention.output.dense",
    "input_layernorm": "attention.output.LayerNorm",
    "mlp.up_proj": "intermediate.dense",
    "mlp.down_proj": "output.dense",
    "post_attention_layernorm": "output.LayerNorm",
}


def trunk(unused_positions: int) -> list[Rule]:
    """The rules of an encoder whose table of positions begins with so many unused rows."""
    positions = RollRows(unused_positions) if unused_positions else MOVE
    return [
        Rule("embed_tokens.weight", "embeddings.word_embeddings.weight"),
        Rule("positions.embed_positions.weight", "embeddings.position_embeddings.weight", positions),
        Rule("token_type_embeddings.weight", "embeddings.token_type_embeddings.weight"),
        Rule("embedding_norm.{kind}", "embeddings.LayerNorm.{kind}"),
        Rule("pooler.dense.{kind}", "pooler.dense.{kind}"),
        *(
            Rule(f"layers.{{layer}}.{ours}.{{kind}}", f"encoder.layer.{{layer}}.{theirs}.{{kind}}")
            for ours, theirs in LAYER.items()
        ),
    ]


def read(config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
    """Reads the classifier's dropout, and whether a bare model has a pooler."""
    fields = {"classifier_dropout": config.classifier_dropout}
    if head.is_base:  # some are saved without their pooler
        fields["add_pooling_layer"] = "pooler.dense.weight" in tensors
    return fields


def write(config: Any, head: Head) -> dict[str, Any]:
    """Writes the classifier's dropout; None where it is that of the layers, as BERT's default."""
    dropout = config.classifier_dropout
    return {"classifier_dropout": None if dropout == config.hidden_dropout else dropout}


def read_roberta(config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
    """Reads what `read` does; refuses a head with another activation than 'gelu', and a config without padding id."""
    if head.source.endswith("ForMaskedLM") and config.hidden_act != "gelu":
        raise ValueError(
            f"hidden_act={config.hidden_act!r} of model_type='{config.model_type}' cannot be represented in "
            f"{head.source}, whose head always has 'gelu'; ours has the activation of the layers."
        )
    if config.pad_token_id is None:
        raise ValueError(f"pad_token_id=None of model_type='{config.model_type}': positions are counted from it.")
    return read(config, head, tensors)


def encoder_heads(name: str, masked: Sequence[Rule], tied: str, pooled: Sequence[Rule]) -> list[Head]:
    """The heads of BERT and RoBERTa; `pooled` are the rules of a classifier of sequences."""
    classifier = Rule("classifier.{kind}", "classifier.{kind}")
    answers = Rule("qa_outputs.{kind}", "qa_outputs.{kind}")
    return [
        Head(f"{name}Model", "TrineModel"),
        Head(f"{name}ForMaskedLM", "TrineForMaskedLM", masked, tied),
        Head(f"{name}ForSequenceClassification", "TrineForSequenceClassification", pooled),
        Head(f"{name}ForTokenClassification", "TrineForTokenClassification", [classifier]),
        Head(f"{name}ForQuestionAnswering", "TrineForQuestionAnswering", [answers]),
        Head(f"{name}ForMultipleChoice", "TrineForMultipleChoice", [classifier]),
    ]


BERT_MASKED = [
    Rule("transform.dense.{kind}", "cls.predictions.transform.dense.{kind}"),
    Rule("transform.norm.{kind}", "cls.predictions.transform.LayerNorm.{kind}"),
    Rule("lm_head.bias", "cls.predictions.bias"),
]
BERT_TIED = "cls.predictions.decoder.weight"
BERT_PRETRAINING = [*BERT_MASKED, Rule("seq_relationship.{kind}", "cls.seq_relationship.{kind}")]
ROBERTA_MASKED = [
    Rule("transform.dense.{kind}", "lm_head.dense.{kind}"),
    Rule("transform.norm.{kind}", "lm_head.layer_norm.{kind}"),
    Rule("lm_head.bias", "lm_head.bias"),
]
ROBERTA_POOLED = [
    Rule("model.pooler.dense.{kind}", "classifier.dense.{kind}"),
    Rule("classifier.{kind}", "classifier.out_proj.{kind}"),
]
SHARED: dict[str, Any] = {
    "names": NAMES,
    "constants": CONSTANTS,
    "write": write,
    "read_fields": ["classifier_dropout"],
    "fixed": FIXED,
    "ignored": IGNORED,
    "buffers": [r"embeddings\.(position_ids|token_type_ids)$"],
    "old_names": [(r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")],
}

BERT = Family(
    "bert",
    [
        *encoder_heads("Bert", BERT_MASKED, BERT_TIED, [Rule("classifier.{kind}", "classifier.{kind}")]),
        Head("BertForPreTraining", "TrineForPreTraining", BERT_PRETRAINING, BERT_TIED),
    ],
    lambda config: trunk(0),
    read=read,
    **SHARED,
)


def roberta(model_type: str, name: str) -> Family:
    """A family like RoBERTa, whose positions begin after the padding id."""
    heads = encoder_heads(name, ROBERTA_MASKED, "lm_head.decoder.weight", ROBERTA_POOLED)
    return Family(model_type, heads, lambda config: trunk(config.pad_token_id + 1), read=read_roberta, **SHARED)


ROBERTA = roberta("roberta", "Roberta")
XLM_ROBERTA = roberta("xlm-roberta", "XLMRoberta")
