"""Every attention kind against its loop in the reference, and what the kinds have in common."""

import pytest
import torch
from support import reference
from support.tiny import (
    SIZES,
    SPARSE,
    TOLERANCES,
    check_against_the_oracle,
    expected_output,
    output_of,
    random_ids,
    tiny_model,
)

from trine.configuration.kinds import ATTENTION_KINDS


KINDS = sorted(ATTENTION_KINDS)
PAIRWISE = [kind for kind in KINDS if ATTENTION_KINDS[kind].has_pair_scores]
SORTED = {"lsh"}  # a token that changes moves others to other places of a sum, which is rounded differently
CAUSAL = pytest.mark.parametrize("is_causal", [True, False], ids=["decoder", "encoder"])
WINDOW = SIZES["sliding_window"]
VARIANTS = {
    "plain": {},
    "biases": {"attention_bias": True},
    "qk_norm": {"qk_norm": True},
    "qk_layernorm": {"qk_norm": True, "norm_type": "layernorm"},
    "one_key_value_head": {"num_key_value_heads": 1},
    "all_key_value_heads": {"num_key_value_heads": 4},
    "odd_head_dim": {"head_dim": 5},
    "post_norm": {"norm_position": "post"},
    "scaled_embedding": {"scale_embedding": True},
    "relative": {"position_type": "relative"},
    "scale": {"attention_scale": 0.7},
}


@CAUSAL
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, WINDOW - 1, WINDOW, WINDOW + 1, 31])
def test_outputs_and_gradients_equal_the_loop(length, kind, is_causal):
    check_against_the_oracle(length, attention_types=kind, is_causal=is_causal)


@CAUSAL
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_equals_the_loop(variant, is_causal):
    fields = {"num_hidden_layers": 2, "attention_types": "sliding, full", **VARIANTS[variant]}
    check_against_the_oracle(11, is_causal=is_causal, **fields)


@CAUSAL
@pytest.mark.parametrize(
    ("position_type", "kind"), [*(("none", kind) for kind in KINDS), *(("relative", kind) for kind in PAIRWISE)]
)
def test_flex_equals_the_loop(position_type, kind, is_causal):
    """Without compilation, which takes 20 seconds: what is tested is the mask and the bias that the kernel gets."""
    model = tiny_model(
        attn="flex_attention", attention_types=kind, is_causal=is_causal, position_type=position_type, head_dim=16
    )
    tokens = random_ids(WINDOW + 3)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        actual = output_of(model(tokens[None], use_cache=False))[0]
    torch.testing.assert_close(actual, expected_output(model, tokens.tolist()), **TOLERANCES)


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("position_type", "kind"),
    [*((position, kind) for position in ("rope", "learned") for kind in KINDS), *(("relative", k) for k in PAIRWISE)],
)
def test_no_token_sees_a_later_one(kind, position_type, attn):
    model = tiny_model(attn=attn, dtype=torch.float32, attention_types=kind, position_type=position_type)
    tokens = random_ids(1, 20)
    for changed in (0, 1, 9, 19):
        other = tokens.clone()
        other[0, changed] = (other[0, changed] + 1) % SIZES["vocab_size"]
        with torch.no_grad():
            before, after = model(tokens).logits, model(other).logits
        if kind in SORTED:
            torch.testing.assert_close(before[:, :changed], after[:, :changed], rtol=1e-3, atol=1e-3)
        else:
            assert torch.equal(before[:, :changed], after[:, :changed])
        assert not torch.equal(before[:, changed], after[:, changed])


def test_no_token_of_a_sparse_model_sees_a_later_one():
    model = tiny_model(**SPARSE)
    tokens = random_ids(1, 20)
    other = tokens.clone()
    other[0, 12] += 1
    torch.testing.assert_close(model(tokens).logits[:, :12], model(other).logits[:, :12], **TOLERANCES)


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_sees_later_tokens(kind):
    model = tiny_model(attention_types=kind, is_causal=False, num_hidden_layers=1, position_type="none")
    tokens = random_ids(1, WINDOW)
    other = tokens.clone()
    other[0, 3] += 1
    before, after = model(tokens).last_hidden_state, model(other).last_hidden_state
    assert ((before - after).abs().amax(-1) > 1e-6).all()


@CAUSAL
@pytest.mark.parametrize("kind", [kind for kind in PAIRWISE if ATTENTION_KINDS[kind].window_field])
def test_a_window_as_long_as_the_text_is_full_attention(kind, is_causal):
    tokens, window_field = random_ids(2, 17), ATTENTION_KINDS[kind].window_field
    full = tiny_model(attention_types="full", is_causal=is_causal)
    for window in (17, 40):
        windowed = tiny_model(attention_types=kind, is_causal=is_causal, **{window_field: window})
        torch.testing.assert_close(output_of(windowed(tokens)), output_of(full(tokens)), **TOLERANCES)
    shorter = tiny_model(attention_types=kind, is_causal=is_causal, **{window_field: 15})
    assert not torch.allclose(output_of(shorter(tokens)), output_of(full(tokens)))


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_grouped_heads_equal_multi_head_attention_with_repeated_weights(attn):
    """Two key-value heads are four whose weights are equal in pairs."""
    grouped = tiny_model(attn=attn, num_key_value_heads=2, num_hidden_layers=1)
    multi = tiny_model(attn=attn, num_key_value_heads=4, num_hidden_layers=1)
    weights = grouped.state_dict()
    for name in ("k_proj", "v_proj"):
        key = f"model.layers.0.self_attn.{name}.weight"
        weights[key] = weights[key].view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32)
    multi.load_state_dict(weights)
    tokens = random_ids(2, 13)
    torch.testing.assert_close(multi(tokens).logits, grouped(tokens).logits, **TOLERANCES)


@pytest.mark.parametrize("kind", reference.SEES)
def test_returned_weights_are_the_distribution_over_seen_keys(kind):
    model = tiny_model(attention_types=kind, num_hidden_layers=1, attn="eager")
    weights = model(random_ids(1, 12), output_attentions=True).attentions[0][0]
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 12, dtype=torch.float64))
    for query in range(12):
        for key in range(12):
            seen = reference.SEES[kind](model.config, query, key)
            assert bool((weights[:, query, key] > 0).all()) == seen


@pytest.mark.parametrize("field", ["attention_dropout", "hidden_dropout"])
def test_dropout_acts_in_training_only(field):
    model = tiny_model(**{field: 0.5})
    tokens = random_ids(1, 12)
    assert torch.equal(model(tokens).logits, model(tokens).logits)
    model.train()
    assert not torch.allclose(model(tokens).logits, model(tokens).logits)
