"""The rules of a `TrineConfig`, a function for each. Every message names field, value and what is allowed."""

from collections.abc import Callable
from typing import Any

from transformers.activations import ACT2FN

from .bounds import check_fields, check_number, check_weights
from .choices import Choices, in_package
from .input_kinds import INPUT_KINDS
from .input_rules import check_inputs
from .kind_rows import ABOVE_ZERO, AT_LEAST_ONE, ZERO_OR_MORE
from .kinds import (
    ATTENTION_KINDS,
    BALANCING_REDUCTIONS,
    INITIALIZERS,
    KIND_TABLES,
    LINEAR_FEATURE_MAPS,
    NORM_POSITIONS,
    NORM_TYPES,
    POOLINGS,
    POSITION_KINDS,
    ROUTER_KINDS,
    SIMPLICIAL_BACKENDS,
    TRILINEAR_KINDS,
)
from .patterns import check_choice
from .retrieval_rules import check_retrieval
from .rope_rules import check_rope


def fields_of_kinds(allowed: str) -> tuple[str, ...]:
    """The fields for which a row of some kind gives this rule."""
    rows = [row.about.fields for table in KIND_TABLES.values() for row in table.values()]
    return tuple(field for fields in rows for field, rule in fields.items() if rule == allowed)


POSITIVE_INTEGERS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "cross_attention_hidden_size",
    "multi_vector_dim",
    *fields_of_kinds(AT_LEAST_ONE),
)
PROBABILITIES = ("attention_dropout", "hidden_dropout", "classifier_dropout")
NOT_NEGATIVE = ("type_vocab_size", *fields_of_kinds(ZERO_OR_MORE))
POSITIVE_NUMBERS = ("norm_eps", "initializer_range", *fields_of_kinds(ABOVE_ZERO))
CHOICES = {
    "hidden_act": ACT2FN,
    "input_type": INPUT_KINDS,
    "position_type": POSITION_KINDS,
    "norm_type": NORM_TYPES,
    "norm_position": NORM_POSITIONS,
    "initializer": INITIALIZERS,
    "classifier_pooling": POOLINGS,
    "masked_lm_head": ("transform", "next_token"),
    "router_type": ROUTER_KINDS,
    "router_aux_loss_reduction": BALANCING_REDUCTIONS,
    "simplicial_form": TRILINEAR_KINDS,
    "simplicial_backend": SIMPLICIAL_BACKENDS,
    "linear_feature_map": LINEAR_FEATURE_MAPS,
}


def check_sliding(config) -> None:
    """Raises a `ValueError` unless a model with sliding layers has a window."""
    if config.sliding_window is None:
        raise ValueError(
            f"sliding_window=None, but attention_types={config.attention_types} has sliding layers: set it."
        )


def check_numbers(config) -> None:
    """Raises a `ValueError` for a number out of the range of its field."""
    for field in POSITIVE_INTEGERS:
        value = getattr(config, field)
        if value is not None and value < 1:
            raise ValueError(f"{field}={value} must be at least 1.")
    for field in PROBABILITIES:
        check_dropout(config, field)
    for field in NOT_NEGATIVE:
        if getattr(config, field) < 0:
            raise ValueError(f"{field}={getattr(config, field)} must not be negative.")
    for field in POSITIVE_NUMBERS:
        if getattr(config, field) <= 0:
            raise ValueError(f"{field}={getattr(config, field)} must be above 0.")
    if config.attention_scale is not None and config.attention_scale <= 0:
        raise ValueError(f"attention_scale={config.attention_scale} must be above 0, or None for 1 / sqrt(head_dim).")


def check_loss_chunks(config) -> None:
    """With fewer, the loss of no token would be added, and training would change nothing."""
    if config.loss_chunk_size is not None and config.loss_chunk_size < 1:
        raise ValueError(f"loss_chunk_size={config.loss_chunk_size} must be at least 1, or None for ordinary logits.")


def check_choices(config) -> None:
    """Raises a `ValueError` for a name that is not one of the choices of its field."""
    for field, choices in CHOICES.items():
        check_choice(field, getattr(config, field), choices)


def check_layers(config) -> None:
    """Raises a `ValueError` unless the kinds of layers are lists of known names, one per layer."""
    for field in ("attention_types", "mlp_layer_types"):
        kinds, types = KIND_TABLES[field], getattr(config, field)
        if isinstance(types, str):
            raise ValueError(
                f"{field}={types!r} is a pattern, which is read when a config is made. Give it to the constructor or "
                f"to from_pretrained, or set a list with a name for each of the {config.num_hidden_layers} layers."
            )
        if len(types) != config.num_hidden_layers:
            raise ValueError(f"{field} has {len(types)} entries, but num_hidden_layers={config.num_hidden_layers}.")
        for index, kind in enumerate(types):
            check_choice(f"{field}[{index}]", kind, kinds)


def check_heads(config) -> None:
    """Raises a `ValueError` unless every key-value head serves equally many query heads."""
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    if heads % groups:
        raise ValueError(f"num_attention_heads={heads} is not a multiple of num_key_value_heads={groups}.")


def check_positions(config) -> None:
    """Raises a `ValueError` for sizes or parameters that the position encoding cannot take."""
    if config.position_type == "rope" and config.head_dim % 2:
        raise ValueError(f"head_dim={config.head_dim} must be even for position_type='rope', which rotates pairs.")
    if config.position_type == "sinusoidal" and config.hidden_size % 2:
        raise ValueError(f"hidden_size={config.hidden_size} must be even for position_type='sinusoidal'.")
    if config.position_type != "rope" and config.rope_parameters:
        raise ValueError(
            f"rope_parameters={config.rope_parameters} is read by position_type='rope' only, "
            f"but position_type={config.position_type!r}."
        )
    if config.has_layered_rope:
        keys, needed = set(config.rope_parameters), set(config.layer_types)
        known = {kind.layer_type for kind in ATTENTION_KINDS.values()}
        if not needed <= keys <= known:
            raise ValueError(
                f"rope_parameters has the keys {list(config.rope_parameters)}, but with parameters for each layer "
                f"type it needs those of the model, {sorted(needed)}, and may have others of {sorted(known)} only."
            )
    buckets, distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
    smallest = 2 if config.is_causal else 4
    if buckets < smallest or buckets % smallest:
        raise ValueError(f"relative_attention_num_buckets={buckets} must be a positive multiple of {smallest}.")
    if distance <= buckets // smallest:
        raise ValueError(
            f"relative_attention_max_distance={distance} must be above {buckets // smallest}, the number of "
            f"distances that have a bucket of their own with relative_attention_num_buckets={buckets}."
        )


def check_norms(config) -> None:
    """Raises a `ValueError` for options of norms that the chosen type or place does not have."""
    if not config.norm_bias and config.norm_type != "layernorm":
        raise ValueError(
            f"norm_bias=False is read by norm_type='layernorm' only, but norm_type={config.norm_type!r} never has a "
            "bias. Leave norm_bias=True."
        )
    if not config.first_attention_norm and config.norm_position != "pre":
        raise ValueError(
            f"first_attention_norm=False leaves a norm before attention out, which norm_position='pre' has, but "
            f"norm_position={config.norm_position!r}."
        )


def check_pair_scores(config) -> None:
    """Raises a `ValueError` for fields that act on scores of pairs of tokens, where a layer has no such scores."""
    for index, kind in enumerate(config.attention_types):
        if ATTENTION_KINDS[kind].has_pair_scores:
            continue
        if config.attention_dropout:
            raise ValueError(
                f"attention_dropout={config.attention_dropout} drops the weights of pairs of tokens, but "
                f"attention_types[{index}]={kind!r} offers none. Set it to 0; hidden_dropout acts on every layer."
            )
        if config.attention_scale is not None:
            raise ValueError(
                f"attention_scale={config.attention_scale} is a factor on the scores of pairs of tokens, but "
                f"attention_types[{index}]={kind!r} does not read it. Set it to None."
            )
        if POSITION_KINDS[config.position_type].adds_bias:
            choices = [position for position, row in POSITION_KINDS.items() if not row.adds_bias]
            raise ValueError(
                f"position_type={config.position_type!r} adds a bias to the scores of pairs of tokens, but "
                f"attention_types[{index}]={kind!r} takes none. Use one of {choices}."
            )


def check_simplicial(config) -> None:
    """Raises a `ValueError` for sizes or positions that the form of 2-simplicial attention cannot take."""
    name, kind = config.simplicial_form, TRILINEAR_KINDS[config.simplicial_form]
    if config.head_dim % kind.parts:
        raise ValueError(
            f"head_dim={config.head_dim} is not a multiple of {kind.parts}, the features that "
            f"simplicial_form={name!r} takes together."
        )
    if config.simplicial_warm_start and not kind.has_unit:
        choices = [form for form, row in TRILINEAR_KINDS.items() if row.has_unit]
        raise ValueError(
            f"simplicial_warm_start=True needs a form that can be a dot product, one of {choices}, "
            f"but simplicial_form={name!r}."
        )
    check_shift_invariance(config)


def check_shift_invariance(config) -> None:
    """Raises a `ValueError` where rotary positions reach a trilinear form other than through their differences.

    The rotations of query, key and second key must cancel when all three move by the same number of tokens. They do
    for `complex` (query and key are rotated, the second key is not) and for `determinant` (all three, about the third
    axis), and never for `hadamard`.
    """
    factor = TRILINEAR_KINDS[config.simplicial_form].rotary_factor
    if config.position_type != "rope" or not config.require_shift_invariance:
        return
    actual = config.rope_parameters_of("simplicial_attention").get("partial_rotary_factor", 1.0)
    if factor is None:
        raise ValueError(
            f"simplicial_form={config.simplicial_form!r} with position_type='rope' depends on absolute positions: the "
            "rotations do not cancel in its product of three. Use simplicial_form='complex' or 'determinant', another "
            "position_type, or require_shift_invariance=False to have it all the same."
        )
    if abs(actual - factor) > 1e-9:
        raise ValueError(
            f"simplicial_form={config.simplicial_form!r} reads relative positions only if the rotation turns "
            f"{factor:.4g} of a head, but rope_parameters['partial_rotary_factor']={actual}. Set rope_parameters="
            f"{{'rope_theta': 10000.0, 'partial_rotary_factor': {factor}}}, or require_shift_invariance=False to have "
            "it all the same."
        )


def check_bigbird(config) -> None:
    """Raises a `ValueError` for an even window of blocks in an encoder."""
    window = config.bigbird_num_window_blocks
    if not config.is_causal and window % 2 == 0:
        raise ValueError(f"bigbird_num_window_blocks={window} must be odd in an encoder, whose window is centred.")


def check_lsh(config) -> None:
    """Raises a `ValueError` for an odd number of buckets."""
    if config.lsh_num_buckets % 2:
        raise ValueError(
            f"lsh_num_buckets={config.lsh_num_buckets} must be even: a hash is the nearest of random directions and "
            "their opposites."
        )


def check_experts(config) -> None:
    """Raises a `ValueError` for numbers of experts that are missing or do not fit together."""
    for field in ("num_experts", "num_experts_per_tok", "router_aux_loss_coef"):
        if getattr(config, field) is None:
            raise ValueError(f"{field}=None, but mlp_layer_types={config.mlp_layer_types} has sparse layers: set it.")
    if not 1 <= config.num_experts_per_tok <= config.num_experts:
        raise ValueError(
            f"num_experts_per_tok={config.num_experts_per_tok} must be at least 1, and at most "
            f"num_experts={config.num_experts}."
        )


# Rules that go along with a checkpoint, since what they forbid would change results without an error.
PAIR_RULES = Choices("has_pair_scores", {False: check_pair_scores})
ATTENTION_RULES = Choices(
    "attention_types",
    {"sliding": check_sliding, "simplicial": check_simplicial, "bigbird": check_bigbird, "lsh": check_lsh},
)
FEED_FORWARD_RULES = Choices("mlp_layer_types", {"sparse": check_experts})


KIND_RULES: dict[tuple[str, str], Callable[[Any], None]] = {}  # of registered kinds, by field and name


def check_plugins(config) -> None:
    """Applies the rules that registered kinds and their fields have."""
    for (field, kind), rule in KIND_RULES.items():
        named = getattr(config, field)
        if kind in (named if isinstance(named, list) else [named]):
            rule(config)
    for name, spec in config.plugin_fields_in_use().items():
        check_number(name, getattr(config, name))
        spec.check(name, getattr(config, name))
    for kind in config.attention_types:
        if ATTENTION_KINDS[kind].causal_only and not config.is_causal:
            choices = [name for name, row in ATTENTION_KINDS.items() if not row.causal_only]
            raise ValueError(
                f"attention_types has {kind!r}, which reads a text from left to right: it needs is_causal=True. "
                f"An encoder may have {choices}."
            )


def check_token_ids(config) -> None:
    """Checks the ids of the special tokens."""
    for field in ("pad_token_id", "bos_token_id", "eos_token_id"):
        check_token_id(config, field)


def check_token_id(config, field: str) -> None:
    """Raises a `ValueError` unless the id, or each of the ids, is one of the vocabulary; None passes."""
    value = getattr(config, field)
    if value == []:
        raise ValueError(f"{field}=[] must hold one id at least, or be None.")
    for token in value if isinstance(value, list) else [value]:
        if token is not None and not 0 <= token < config.vocab_size:
            raise ValueError(f"{field}={value} must lie in the vocabulary, 0 to {config.vocab_size - 1}.")


def check_start_token(config) -> None:
    """Raises a `ValueError` where an encoder-decoder's start token is not in the vocabulary."""
    check_token_id(config, "decoder_start_token_id")


def check_dropout(config, field: str) -> None:
    """Raises a `ValueError` unless a probability is at least 0 and below 1."""
    if not 0 <= getattr(config, field) < 1:
        raise ValueError(f"{field}={getattr(config, field)} must be at least 0 and below 1.")


def check_pointer(config) -> None:
    """Raises a `ValueError` for a pointer-generator head whose sizes do not fit, or a coverage loss without one."""
    size, coefficient = config.pointer_size, config.coverage_loss_coef
    if coefficient < 0 or (coefficient and size is None):
        raise ValueError(
            f"coverage_loss_coef={coefficient} must not be negative, and needs a pointer: pointer_size={size}."
        )
    if size is None:
        return
    if size < 1:
        raise ValueError(f"pointer_size={size} must be at least 1, or None for no pointer.")
    check_weights({("pointer_size", "hidden_size"): 4}, config)
    if config.encoder.vocab_size != config.decoder.vocab_size:
        raise ValueError(
            f"pointer_size={size} copies tokens of the source into the target, which need one vocabulary, but "
            f"encoder.vocab_size={config.encoder.vocab_size} and decoder.vocab_size={config.decoder.vocab_size}."
        )


def check_pooler(config) -> None:
    """Raises a `ValueError` for a pooler in a decoder, whose first token sees no other."""
    if config.add_pooling_layer and config.is_causal:
        raise ValueError(
            "add_pooling_layer=True reads the first token, which sees no other in a decoder (is_causal=True)."
        )


def check_size(config) -> None:
    """Raises a `ValueError` for more weights than any computer could hold."""
    layers, sparse = config.num_hidden_layers, config.mlp_layer_types.count("sparse")
    weighty = [(kind, row) for kind, row in ATTENTION_KINDS.items() if row.about.weights]
    parts = {
        ("vocab_size", "hidden_size"): 1,
        ("type_vocab_size", "hidden_size"): 1,
        ("max_position_embeddings", "hidden_size"): int(config.position_type == "learned"),
        ("hidden_size", "num_attention_heads", "head_dim"): layers,
        ("cross_attention_hidden_size", "num_attention_heads", "head_dim"): layers * config.add_cross_attention,
        ("hidden_size", "intermediate_size"): layers - sparse,
        ("num_experts", "hidden_size", "moe_intermediate_size"): sparse,
        ("num_shared_experts", "hidden_size", "moe_intermediate_size"): sparse,
        **{row.about.weights: config.attention_types.count(kind) for kind, row in weighty},
        ("num_attention_heads", "relative_attention_num_buckets"): int(config.position_type == "relative"),
    }
    check_weights(parts, config)


def check_role(config) -> None:
    """Raises a `ValueError` for `is_encoder_decoder=True`, since a `TrineConfig` is one stack."""
    if config.is_encoder_decoder:
        raise ValueError("is_encoder_decoder=True: a TrineConfig is one stack. Use TrineSeq2SeqConfig for two.")


RULES = in_package(
    (
        check_fields,
        check_numbers,
        check_choices,
        check_layers,
        check_size,
        check_role,
        check_heads,
        check_positions,
        check_rope,
        check_norms,
        check_plugins,
        check_inputs,
        check_token_ids,
        check_pooler,
        check_retrieval,
    )
)
