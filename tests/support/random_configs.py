"""Hypothesis strategies that draw whole configurations: every field of every config class has one.

`CLASSES` maps each config class to its strategies by field; `tests/properties/test_random_models.py` compares their
names with the fields of the dataclass, so that a new field without a strategy fails.
"""

from hypothesis import strategies as st
from support.random_outputs import NEW_TOKENS
from transformers.activations import ACT2FN

from trine import TrineConfig, TrineRecurrentConfig, TrineSeq2SeqConfig
from trine.configuration.configuration_trine_recurrent import RECURRENT_ATTENTIONS
from trine.configuration.kind_rows import ABOVE_ZERO, AT_LEAST_ONE, ZERO_OR_MORE
from trine.configuration.kinds import (
    ATTENTION_KINDS,
    BALANCING_REDUCTIONS,
    FEED_FORWARD_KINDS,
    INITIALIZERS,
    LINEAR_FEATURE_MAPS,
    NORM_POSITIONS,
    NORM_TYPES,
    POOLINGS,
    POSITION_KINDS,
    ROUTER_KINDS,
    TRILINEAR_KINDS,
)


PROMPT = 9  # the longest source, prompt or target of a draw


def names(choices) -> st.SearchStrategy:
    return st.sampled_from(sorted(choices))


def between(low: float, high: float) -> st.SearchStrategy:
    return st.floats(low, high, allow_nan=False, width=32)


def layers_of(kinds) -> st.SearchStrategy:
    """A pattern of one to three kinds, some with a count, as a user writes it."""
    parts = st.tuples(names(kinds), st.sampled_from(["", "*2"])).map("".join)
    return st.lists(parts, min_size=1, max_size=3).map(", ".join)


DROPOUTS = st.sampled_from([0, 0.0, 0.1, 0.5])
# What every config class of transformers has.
COMMON = {
    "transformers_version": st.sampled_from([None, "5.23.0"]),
    "architectures": st.sampled_from([None, ["TrineModel"]]),
    "output_hidden_states": st.booleans(),
    "return_dict": st.just(True),
    "dtype": st.sampled_from([None, "float32", "bfloat16"]),
    "chunk_size_feed_forward": st.sampled_from([0, 2]),
    "is_encoder_decoder": st.just(False),
    "id2label": st.sampled_from([None, {0: "no", 1: "yes"}, {"0": "a", "1": "b", "2": "c"}]),
    "label2id": st.just(None),
    "problem_type": st.sampled_from([None, "single_label_classification"]),
    "export_code": st.sampled_from([False, False, False, True]),
}
# Fields that follow from others, or whose defaults are too large for a test. `fit` makes them agree.
SIZES = {
    "vocab_size": st.integers(11, 70),
    "hidden_size": st.integers(1, 12).map(lambda n: 4 * n),
    "intermediate_size": st.one_of(st.none(), st.integers(1, 40)),
    "num_hidden_layers": st.integers(1, 3),
    "num_attention_heads": st.integers(1, 4),
    "num_key_value_heads": st.one_of(st.none(), st.integers(1, 4)),
    "head_dim": st.one_of(st.none(), st.integers(1, 16)),
    "max_position_embeddings": st.integers(PROMPT + NEW_TOKENS, 96),
    "performer_num_features": st.one_of(st.none(), st.integers(1, 12)),
    "lsh_num_buckets": st.one_of(st.none(), st.integers(1, 4).map(lambda n: 2 * n)),
}
STACK = {
    "attention_types": layers_of(ATTENTION_KINDS),
    "mlp_layer_types": layers_of(FEED_FORWARD_KINDS),
    "position_type": names(POSITION_KINDS),
    "rope_parameters": st.sampled_from(
        [
            None,
            {"rope_theta": 500.0},
            {"rope_type": "linear", "factor": 2.0},
            {"rope_type": "dynamic", "factor": 4.0},
            {"rope_type": "yarn", "factor": 2.0},
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            {"rope_type": "proportional", "factor": 2.0},
            {"rope_type": "default", "partial_rotary_factor": 0.5},
        ]
    ),
    "relative_attention_num_buckets": st.integers(1, 8).map(lambda n: 4 * n),
    "relative_attention_max_distance": st.integers(9, 64),
    "sliding_window": st.integers(1, 12),
    "attention_chunk_size": st.integers(1, 12),
    "simplicial_window": st.integers(1, 12),
    "simplicial_second_window": st.integers(1, 5),
    "simplicial_form": names(TRILINEAR_KINDS),
    "simplicial_offset_bias": st.booleans(),
    "simplicial_warm_start": st.booleans(),
    "simplicial_backend": st.sampled_from(["auto", "eager", "chunked"]),
    "linear_feature_map": names(LINEAR_FEATURE_MAPS),
    "performer_redraw_interval": st.integers(0, 3),
    "bigbird_block_size": st.integers(1, 5),
    "bigbird_num_global_blocks": st.integers(0, 3),
    "bigbird_num_window_blocks": st.integers(1, 4),
    "bigbird_num_random_blocks": st.integers(0, 3),
    "lsh_chunk_length": st.integers(1, 6),
    "lsh_num_adjacent_chunks": st.integers(0, 2),
    "lsh_num_hashes": st.integers(1, 3),
    "require_shift_invariance": st.booleans(),
    "norm_type": names(NORM_TYPES),
    "norm_position": names(NORM_POSITIONS),
    "norm_eps": st.sampled_from([1e-12, 1e-6, 1e-5, 1]),
    "norm_bias": st.booleans(),
    "first_attention_norm": st.booleans(),
    "hidden_act": names(ACT2FN),
    "gated_mlp": st.booleans(),
    "attention_bias": st.booleans(),
    "mlp_bias": st.booleans(),
    "qk_norm": st.booleans(),
    "attention_scale": st.one_of(st.none(), between(0.125, 2.0), st.just(1)),
    "type_vocab_size": st.integers(0, 3),
    "embedding_norm": st.booleans(),
    "add_pooling_layer": st.booleans(),
    "scale_embedding": st.booleans(),
    "attention_dropout": DROPOUTS,
    "hidden_dropout": DROPOUTS,
    "classifier_dropout": st.one_of(st.none(), DROPOUTS),
    "classifier_pooling": st.one_of(st.none(), names(POOLINGS)),
    "classifier_transform": st.booleans(),
    "masked_lm_head": st.sampled_from(["transform", "next_token"]),
    "retrieval_outputs": st.none(),  # which would be another model's
    "multi_vector_dim": st.integers(1, 8),
    "unscored_token_ids": st.sampled_from([None, [], [0, 3]]),
    "initializer": names(INITIALIZERS),
    "initializer_range": st.sampled_from([0.001, 0.02, 1]),
    "tie_word_embeddings": st.booleans(),
    "use_cache": st.booleans(),
    "pad_token_id": st.one_of(st.none(), st.integers(0, 10)),
    "bos_token_id": st.one_of(st.none(), st.integers(0, 10)),
    "eos_token_id": st.one_of(st.none(), st.integers(0, 10), st.lists(st.integers(0, 10), min_size=1, max_size=2)),
    "loss_chunk_size": st.sampled_from([None, 1, 3, 8, 1024]),
    "num_experts": st.one_of(st.none(), st.integers(1, 5)),
    "num_experts_per_tok": st.one_of(st.none(), st.integers(1, 5)),
    "moe_intermediate_size": st.one_of(st.none(), st.integers(1, 24)),
    "num_shared_experts": st.integers(0, 2),
    "router_type": names(ROUTER_KINDS),
    "norm_topk_prob": st.booleans(),
    "routed_scaling_factor": st.sampled_from([0.5, 1, 2.5]),
    "router_aux_loss_coef": st.sampled_from([None, 0, 0.01, 1.0]),
    "router_aux_loss_reduction": names(BALANCING_REDUCTIONS),
    "router_z_loss_coef": st.sampled_from([0.0, 0.001]),
    "router_bias_update_rate": st.sampled_from([0, 0.001]),
    "output_router_logits": st.booleans(),
}
# Of a field of a kind that has no strategy of its own, by what its row says that a number has to be.
NUMBERS = {
    AT_LEAST_ONE: st.integers(1, 5),
    ZERO_OR_MORE: st.integers(0, 3),
    ABOVE_ZERO: st.sampled_from([0.5, 1, 2.5]),
}
for row in ATTENTION_KINDS.values():
    own = {name: rule for name, rule in row.about.fields.items() if name not in {**SIZES, **STACK}}
    STACK |= {name: NUMBERS[rule] for name, rule in own.items() if rule in NUMBERS}
# Set by the shape, not drawn.
ROLES = {
    "input_type": st.just("tokens"),  # others would be other models
    "is_causal": st.booleans(),
    "prefix_lm": st.just(False),
    "add_cross_attention": st.just(False),
    "cross_attention_hidden_size": st.none(),
}
SEQ2SEQ = {
    "share_embeddings": st.booleans(),
    "tie_word_embeddings": st.booleans(),
    "logit_scale": st.sampled_from([0.125, 1, 2.0]),
    "pointer_size": st.sampled_from([None, None, 1, 5]),
    "coverage_loss_coef": st.sampled_from([0, 0.0, 1.0]),
    "decoder_is_causal": st.sampled_from([True, True, True, False]),
    "pad_token_id": st.integers(0, 10),
    "bos_token_id": STACK["bos_token_id"],
    "eos_token_id": STACK["eos_token_id"],
    "decoder_start_token_id": st.one_of(st.none(), st.integers(0, 10)),
    "classifier_dropout": STACK["classifier_dropout"],
    "output_router_logits": st.booleans(),
    **{name: strategy for name, strategy in COMMON.items() if name != "is_encoder_decoder"},
}
RECURRENT = {
    "bidirectional_encoder": st.booleans(),
    "attention": names(RECURRENT_ATTENTIONS),
    "hidden_dropout": DROPOUTS,
    "initializer_range": STACK["initializer_range"],
    "tie_word_embeddings": st.booleans(),
    "is_encoder_decoder": st.just(True),
    "use_cache": st.booleans(),
    "pad_token_id": st.integers(0, 10),
    "bos_token_id": STACK["bos_token_id"],
    "eos_token_id": STACK["eos_token_id"],
    "decoder_start_token_id": st.one_of(st.none(), st.integers(0, 10)),
    "loss_chunk_size": STACK["loss_chunk_size"],
    **{name: strategy for name, strategy in COMMON.items() if name != "is_encoder_decoder"},
}
RECURRENT_SIZES = {
    "vocab_size": SIZES["vocab_size"],
    "hidden_size": st.integers(1, 8).map(lambda n: 2 * n),
    "num_hidden_layers": st.integers(1, 3),
}
CLASSES = {
    TrineConfig: {**SIZES, **STACK, **ROLES, **COMMON},
    TrineSeq2SeqConfig: {**SEQ2SEQ, "encoder": None, "decoder": None, "vocab_size": None, "is_encoder_decoder": None},
    TrineRecurrentConfig: {**RECURRENT_SIZES, **RECURRENT},
}


def some_of(required: dict, optional: dict) -> st.SearchStrategy[dict]:
    """Every field of `required`, and any of `optional`; the others stay at their defaults."""
    return st.fixed_dictionaries(required, optional={k: v for k, v in optional.items() if k not in required})


def fit(fields: dict, is_causal: bool) -> dict:
    """Makes fields that were drawn apart agree, as far as a rule between two of them would refuse most draws."""
    fields = {**fields, "is_causal": is_causal}
    heads = fields["num_attention_heads"]
    if fields["num_key_value_heads"] and heads % fields["num_key_value_heads"]:
        fields["num_key_value_heads"] = 1
    if fields["head_dim"] is None:
        fields["hidden_size"] *= heads
    rotary = fields.get("position_type", "rope") == "rope"
    if rotary and fields["head_dim"]:
        fields["head_dim"] *= 2
    if not rotary:
        fields.pop("rope_parameters", None)
    if fields.get("norm_type", "rmsnorm") != "layernorm":
        fields["norm_bias"] = True
    if fields.get("norm_position") == "post":
        fields["first_attention_norm"] = True
    fields["num_experts"] = fields.get("num_experts") or 3
    fields["num_experts_per_tok"] = min(fields.get("num_experts_per_tok") or 2, fields["num_experts"])
    if is_causal:
        fields["add_pooling_layer"] = False
    elif fields.get("bigbird_num_window_blocks", 3) % 2 == 0:
        fields["bigbird_num_window_blocks"] -= 1
    kinds = [part.partition("*")[0] for part in fields.get("attention_types", "full").split(", ")]
    if not all(ATTENTION_KINDS[kind].has_pair_scores for kind in kinds):
        fields |= {"attention_dropout": 0.0, "attention_scale": None}
        if fields.get("position_type") == "relative":
            fields["position_type"] = "none"
    return fields


def stacks(is_causal: bool, required: dict | None = None) -> st.SearchStrategy[dict]:
    return some_of({**SIZES, **(required or {})}, {**STACK, **COMMON}).map(lambda fields: fit(fields, is_causal))


@st.composite
def pairs(draw) -> dict:
    """Fields of an encoder-decoder, whose stacks fit together where they share embeddings."""
    fields = draw(some_of({"pad_token_id": SEQ2SEQ["pad_token_id"]}, SEQ2SEQ))
    encoder = draw(stacks(False))
    decoder = draw(stacks(bool(fields.get("decoder_is_causal", True))))
    if fields.get("share_embeddings", True):
        decoder["vocab_size"] = encoder["vocab_size"]
        decoder["head_dim"] = decoder["head_dim"] or 6
        decoder["hidden_size"] = encoder["hidden_size"]
    if fields.get("pointer_size") is None:
        fields.pop("coverage_loss_coef", None)
    else:
        decoder["vocab_size"] = encoder["vocab_size"]
    for stack in (encoder, decoder):
        stack.pop("is_causal")
        stack.pop("add_pooling_layer", None)
    return {**fields, "encoder": encoder, "decoder": decoder}


SHAPES = {
    "decoder": stacks(True),
    "encoder": stacks(False),
    "encoder-decoder": pairs(),
    "lstm": some_of({**RECURRENT_SIZES, "pad_token_id": RECURRENT["pad_token_id"]}, RECURRENT),
}
CONFIG_CLASSES = {
    "decoder": TrineConfig,
    "encoder": TrineConfig,
    "encoder-decoder": TrineSeq2SeqConfig,
    "lstm": TrineRecurrentConfig,
}
