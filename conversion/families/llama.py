"""Llama, Mistral and Qwen3: decoders whose tensors have our names already."""

from collections.abc import Collection
from copy import deepcopy
from typing import Any

from ..weight_rules import NoBias, Rule
from .base import Family, Head


NAMES = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden_act": "hidden_act",
    "max_position_embeddings": "max_position_embeddings",
    "rms_norm_eps": "norm_eps",
    "attention_dropout": "attention_dropout",
}
# What differs within the family, and what they are in ours.
BIASES = {"attention_bias": "attention_bias", "mlp_bias": "mlp_bias"}
READ_FIELDS = ["rope_parameters", "sliding_window", "classifier_dropout"]
BUFFERS = [r"rotary_emb\.inv_freq$"]
TRUNK = [Rule("{name}", "{name}")]
# Transformers' names of attention, and ours.
KINDS = {"full_attention": "full", "sliding_attention": "sliding"}


def decoder_heads(name: str) -> list[Head]:
    """The classes that transformers makes for every decoder."""
    scores = Rule("classifier.weight", "score.weight")
    answers = Rule("qa_outputs.{kind}", "qa_outputs.{kind}")
    no_bias = Rule("classifier.bias", [], NoBias())
    bias = Rule("classifier.bias", "score.bias")
    return [
        Head(f"{name}Model", "TrineModel"),
        Head(f"{name}ForCausalLM", "TrineForCausalLM", [Rule("lm_head.weight", "lm_head.weight")], "lm_head.weight"),
        Head(f"{name}ForSequenceClassification", "TrineForSequenceClassification", [scores, no_bias]),
        Head(f"{name}ForTokenClassification", "TrineForTokenClassification", [scores, bias]),
        Head(f"{name}ForQuestionAnswering", "TrineForQuestionAnswering", [answers]),
    ]


def read(config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
    """Reads rotary parameters, window and the classifier's dropout."""
    rope = deepcopy(config.rope_parameters)
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(
            f"rope_parameters['partial_rotary_factor']={rope['partial_rotary_factor']} of "
            f"model_type='{config.model_type}' cannot be represented: transformers does not read it everywhere."
        )
    fields: dict[str, Any] = {"rope_parameters": rope}
    if getattr(config, "sliding_window", None) is not None:
        fields |= {"attention_types": "sliding", "sliding_window": config.sliding_window}
    if head.trine == "TrineForTokenClassification":
        fields["classifier_dropout"] = getattr(config, "classifier_dropout", 0.1)
    return fields


def write(config: Any, head: Head) -> dict[str, Any]:
    """Writes rotary parameters and the classifier's dropout."""
    fields: dict[str, Any] = {"rope_parameters": deepcopy(config.rope_parameters_of(config.layer_types[0]))}
    if head.trine == "TrineForTokenClassification":
        fields["classifier_dropout"] = config.classifier_dropout
    return fields


def write_window(config: Any, head: Head) -> dict[str, Any]:
    """Writes the window, for families whose layers all have it or none."""
    windowed = "sliding" in config.attention_types
    return write(config, head) | {"sliding_window": config.sliding_window if windowed else None}


def read_qwen3(config: Any, head: Head, tensors: Collection[str]) -> dict[str, Any]:
    """Reads what `read` does, and the kind of each layer."""
    fields = read(config, head, tensors)
    return fields | {"attention_types": [KINDS[layer_type] for layer_type in config.layer_types]}


def write_qwen3(config: Any, head: Head) -> dict[str, Any]:
    """Writes what `write_window` does, and the type of each layer."""
    windowed = "sliding" in config.attention_types
    return write_window(config, head) | {"layer_types": config.layer_types, "use_sliding_window": windowed}


LLAMA = Family(
    "llama",
    decoder_heads("Llama"),
    lambda config: TRUNK,
    NAMES | BIASES,
    read=read,
    write=write,
    read_fields=READ_FIELDS,
    ignored=["pretraining_tp"],  # transformers computes the same for every value
    buffers=BUFFERS,
)
MISTRAL = Family(
    "mistral",
    decoder_heads("Mistral"),
    lambda config: TRUNK,
    NAMES,
    read=read,
    write=write_window,
    read_fields=READ_FIELDS,
    buffers=BUFFERS,
)
QWEN3 = Family(
    "qwen3",
    decoder_heads("Qwen3"),
    lambda config: TRUNK,
    NAMES | {"attention_bias": "attention_bias"},
    {"qk_norm": True},
    read=read_qwen3,
    write=write_qwen3,
    read_fields=[*READ_FIELDS, "layer_types", "use_sliding_window", "max_window_layers"],
    buffers=BUFFERS,
)
