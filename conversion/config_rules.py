"""Rules for config fields in a conversion: which decide what a model computes, and which are refused."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import logging

from ..configuration.configuration_trine import TrineConfig
from ..configuration.kinds import KIND_TABLES


logger = logging.get_logger(__name__)

# Fields that both sides have under the same name.
COMMON_FIELDS = {
    name: name
    for name in (
        *("vocab_size", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "initializer_range"),
        *("use_cache", "id2label", "label2id", "problem_type"),
    )
}
FIXED = {
    "quantization_config": ([None], "quantised weights have other tensors; save the model dequantised first"),
    "auto_map": ([None], "it names code of its own, which may compute anything"),
    "is_decoder": ([False], "this family is converted in its usual role only"),
    "add_cross_attention": ([False], "this family is converted in its usual role only"),
    "tie_encoder_decoder": ([False], "the weights of two stacks cannot be shared"),
    "pruned_heads": ([{}, None], "layers have equal numbers of heads"),
}
# Of every config; none changes an output. Settings of generation have a file of their own.
IGNORED = {
    *(PreTrainedConfig().to_dict().keys() | GenerationConfig().to_dict().keys()),
    *("gradient_checkpointing", "task_specific_params", "torch_dtype", "tokenizer_class", "output_past", "prefix"),
    *("finetuning_task", "cls_token_id", "sep_token_id", "decoder_start_token_id", "use_bfloat16", "torchscript"),
}


def check_source(
    config: PreTrainedConfig,
    read: Collection[str],
    fixed: Mapping[str, tuple[Sequence, str]],
    ignored: Collection[str],
    training: Collection[str] = (),
) -> None:
    """Raises a `ValueError` at the first field that might change what the model computes without anybody noticing.

    Args:
        config: A source's config.
        read: Its fields that ours are made of.
        fixed: Its fields that must have one of some values, and why.
        ignored: Its fields that change no output.
        training: Its fields that act in training only. Without a counterpart they are dropped with a warning.
    """
    defaults = type(config)().to_dict()
    for name, value in config.to_dict().items():
        where = f"{name}={value!r} of model_type='{config.model_type}'"
        if name in (rules := FIXED | dict(fixed)):
            values, reason = rules[name]
            if value not in values:
                raise ValueError(f"{where} cannot be represented: {reason}. It must be one of {[*values]}.")
        elif name in training and value:
            logger.warning(f"{where} acts in training only, and has no counterpart: it is dropped.")
        elif name in read or name in ignored or name in training or name in IGNORED or name.startswith("_"):
            continue
        elif value != defaults.get(name) and (value or name in defaults):
            raise ValueError(
                f"{where} is unknown to the conversion, which cannot tell whether it changes what the model computes. "
                "Remove it from config.json if it does not."
            )


# Fields of ours that decide how a model trains, is stored or first filled, and not what it computes.
WITHOUT_EFFECT = {
    *("initializer", "initializer_range", "loss_chunk_size", "use_cache", "export_code", "auto_map", "id2label"),
    *("label2id", "problem_type", "dtype", "architectures", "transformers_version", "_name_or_path", "layer_types"),
    *("output_router_logits", "router_bias_update_rate", "require_shift_invariance", "performer_redraw_interval"),
    *("router_aux_loss_reduction", "coverage_loss_coef"),
    *("cross_attention_hidden_size", "task_specific_params", "classifier_dropout"),
    *("logit_scale_init_value", "logit_bias_init_value"),
}
CLASSIFIERS = (
    *("TrineForSequenceClassification", "TrineForTokenClassification", "TrineForQuestionAnswering"),
    *("TrineForMultipleChoice", "TrineForImageClassification"),
)
MASKED_HEADS = ("TrineForMaskedLM", "TrineForPreTraining")
POOLED_HEADS = (
    *("TrineModel", "TrineForSequenceClassification", "TrineForMultipleChoice", "TrineForImageClassification"),
)
# Of models that read something else than tokens.
TOKEN_FIELDS = {"vocab_size", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"}
TOKEN_FIELDS |= {"tie_word_embeddings", "type_vocab_size", "multi_vector_dim", "unscored_token_ids"}


def fields_without_kind(config: TrineConfig) -> set[str]:
    """The fields that belong to kinds of which the stack has none."""
    used = {*config.attention_types, *config.mlp_layer_types, config.position_type}
    rows = [(kind, set(row.about.fields)) for table in KIND_TABLES.values() for kind, row in table.items()]
    read = [fields for kind, fields in rows if kind in used]
    return set().union(*(fields for _, fields in rows)).difference(*read)


def effective(config: TrineConfig, head: str) -> dict[str, Any]:
    """The fields of one stack that something in it reads, for the class named `head`."""
    unread = WITHOUT_EFFECT | fields_without_kind(config)
    if config.input_type != "tokens":
        unread |= TOKEN_FIELDS
    if head not in CLASSIFIERS:
        unread.add("classifier_transform")
    if head not in MASKED_HEADS:
        unread.add("masked_lm_head")
    if head not in POOLED_HEADS:
        unread |= {"classifier_pooling", "add_pooling_layer"}
    elif head == "TrineModel":
        unread.add("classifier_pooling")
    fields = {name: value for name, value in config.to_dict().items() if name not in unread}
    if config.has_layered_rope:
        rope = {layer_type: config.rope_parameters_of(layer_type) for layer_type in config.layer_types}
        first, *others = rope.values()
        fields["rope_parameters"] = rope if any(parameters != first for parameters in others) else first
    return fields


def effective_fields(config: Any, head: str) -> dict[str, Any]:
    """The fields of a config that something reads; those of the stacks within it under dotted names."""
    if isinstance(config, TrineConfig):
        return effective(config, head)
    stack_unread = STACK_UNREAD if config.is_encoder_decoder else {"tie_word_embeddings"}
    own = {name: value for name, value in config.to_dict().items() if name not in WITHOUT_EFFECT}
    own = {name: value for name, value in own.items() if name not in config.sub_configs}
    for side in config.sub_configs:
        stack = effective(getattr(config, side), head)
        own |= {f"{side}.{name}": value for name, value in stack.items() if name not in stack_unread}
    return own


# What a stack leaves to the config of both.
STACK_UNREAD = {
    "tie_word_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "is_causal",
    "output_attentions",
}


def differences(config: Any, other: Any, head: str) -> Iterator[tuple[str, Any, Any]]:
    """Fields that are read and differ between two configs, with both values."""
    theirs = effective_fields(other, head)
    for name, value in effective_fields(config, head).items():
        if value != theirs.get(name):
            yield name, value, theirs.get(name)
