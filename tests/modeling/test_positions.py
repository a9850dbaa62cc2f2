"""Every position encoding against its loop in the reference, and against the library where it has the same."""

import pytest
import torch
from support import reference
from support.tiny import MIXED, expected_output, random_ids, tiny_config, tiny_model
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.t5.modeling_t5 import T5Attention

from trine import TrineForCausalLM
from trine.configuration.kinds import POSITION_KINDS
from trine.modeling.positions.relative import RelativeEncoding
from trine.modeling.positions.rope import TrineRotaryEmbedding, apply_rotation
from trine.modeling.positions.table import POSITIONS


SCALINGS = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 24},
    "longrope": {
        "short_factor": [1.0] * 4,
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "factor": 4.0,
        "original_max_position_embeddings": 24,
    },
    "proportional": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24,
    },
}


def rope_model(length_limit: int = 96, **parameters) -> TrineForCausalLM:
    parameters = {"rope_type": "default", "rope_theta": 10000.0, **parameters}
    return tiny_model(rope_parameters=parameters, max_position_embeddings=length_limit)


@pytest.mark.parametrize("position_type", sorted(POSITION_KINDS))
@pytest.mark.parametrize("is_causal", [True, False], ids=["decoder", "encoder"])
def test_every_encoding_equals_the_loop(position_type, is_causal):
    model = tiny_model(position_type=position_type, is_causal=is_causal, **MIXED)
    tokens = random_ids(40)
    with torch.no_grad():
        actual = model(tokens[None], use_cache=False)
    actual = actual.logits if is_causal else actual.last_hidden_state
    tolerance = 1e-3 if position_type == "rope" else 1e-8  # the angles of rotary positions are float32
    torch.testing.assert_close(actual[0], expected_output(model, tokens.tolist()), rtol=tolerance, atol=tolerance)


def test_rotary_parameters_of_each_layer_type_equal_the_loop(tmp_path):
    """Without a cache, with one, and after loading; each layer type has waves of its own."""
    rope = {
        "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 1.0, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_theta": 20.0},
        "chunked_attention": {"rope_theta": 3.0},
    }
    model, tokens = tiny_model(rope_parameters=rope, **MIXED), random_ids(1, 20)
    expected = expected_output(model, tokens[0].tolist())
    torch.testing.assert_close(model(tokens, use_cache=False).logits[0], expected, rtol=1e-4, atol=1e-4)
    cached = model(tokens[:, :13], use_cache=True)
    rest = model(tokens[:, 13:], past_key_values=cached.past_key_values).logits[0]
    torch.testing.assert_close(rest, expected[13:], rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = TrineForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("theta", [100.0, 10000.0, 1e6])
@pytest.mark.parametrize("partial", [0.5, 1.0])
def test_rotation_is_multiplication_of_complex_numbers(partial, theta):
    config = tiny_config(
        head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": partial}
    )
    vectors = torch.randn(1, 1, 50, 16, dtype=torch.float64)
    actual = apply_rotation(vectors, *TrineRotaryEmbedding(config).rotate(vectors, torch.arange(50)[None]))
    loop = reference.RotaryPositions(config, None)
    expected = torch.stack([loop.rotate(vector, p) for p, vector in enumerate(vectors[0, 0])])
    torch.testing.assert_close(actual[0, 0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual.norm(dim=-1), vectors.norm(dim=-1), rtol=1e-6, atol=1e-6)


def test_rotated_scores_depend_on_the_distance_only():
    encoding = TrineRotaryEmbedding(tiny_config(head_dim=16))
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)

    def score(query_position, key_position):
        rotated = (
            apply_rotation(vector, *encoding.rotate(vector, torch.tensor([[position]])))
            for vector, position in ((query, query_position), (key, key_position))
        )
        return (next(rotated) * next(rotated)).sum()

    for shift in (1, 17, 500):
        torch.testing.assert_close(score(9 + shift, 4 + shift), score(9, 4), rtol=1e-4, atol=1e-4)
    assert not torch.isclose(score(9, 5), score(9, 4))


@pytest.mark.parametrize("shift", [1, 30])
@pytest.mark.parametrize("position_type", ["rope", "none"])
def test_shifted_positions_give_the_same_logits(position_type, shift):
    model = tiny_model(position_type=position_type)
    tokens, positions = random_ids(1, 20), torch.arange(20)[None]
    expected = model(tokens, position_ids=positions).logits
    torch.testing.assert_close(model(tokens, position_ids=positions + shift).logits, expected, rtol=1e-3, atol=1e-3)


def test_every_scaling_type_of_the_library_is_tested():
    assert set(SCALINGS) == set(ROPE_INIT_FUNCTIONS), "a new scaling type wants a row here"


@pytest.mark.parametrize("partial", [None, 0.5])
@pytest.mark.parametrize("rope_type", SCALINGS)
def test_scaling_types_load_run_and_use_the_library_frequencies(rope_type, partial, tmp_path):
    parameters = {"rope_type": rope_type, "rope_theta": 10000.0, **SCALINGS[rope_type]}
    if partial:
        parameters |= {"partial_rotary_factor": partial}
        parameters |= {name: parameters[name][:2] for name in ("short_factor", "long_factor") if name in parameters}
    model = rope_model(length_limit=48, **parameters)
    tokens = random_ids(1, 60)
    expected = model(tokens).logits
    frequencies, scale = ROPE_INIT_FUNCTIONS[rope_type](model.config)
    rotary = model.model.positions
    torch.testing.assert_close(rotary.original_inv_freq.float(), frequencies)
    rotated = 2 if partial and rope_type != "proportional" else 4  # that one turns the other pairs by nothing
    assert rotary.attention_scaling == scale and len(frequencies) == rotated
    unscaled = rope_model(**({"partial_rotary_factor": partial} if partial else {}))
    assert not torch.allclose(expected, unscaled(tokens).logits)
    model.save_pretrained(tmp_path)
    loaded = TrineForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(loaded(tokens).logits, expected)


def test_linear_scaling_divides_positions():
    scaled = TrineRotaryEmbedding(
        tiny_config(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    )
    plain = TrineRotaryEmbedding(tiny_config())
    states = torch.zeros(1, 1, 8)
    for scaled_wave, wave in zip(
        scaled(states, torch.arange(0, 40, 4)[None]), plain(states, torch.arange(10)[None]), strict=True
    ):
        torch.testing.assert_close(scaled_wave, wave)


def test_dynamic_scaling_begins_beyond_the_trained_length():
    plain, dynamic = rope_model(length_limit=30), rope_model(length_limit=30, rope_type="dynamic", factor=4.0)
    for length, equal in ((29, True), (40, False), (29, True)):
        tokens = random_ids(1, length)
        assert torch.allclose(plain(tokens).logits, dynamic(tokens).logits) == equal, length


@pytest.mark.parametrize("is_causal", [True, False], ids=["decoder", "encoder"])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 50), (8, 64), (12, 23), (4, 7)])
def test_buckets_equal_their_definition_and_those_of_t5(num_buckets, max_distance, is_causal):
    config = tiny_config(
        is_causal=is_causal,
        position_type="relative",
        relative_attention_num_buckets=num_buckets,
        relative_attention_max_distance=max_distance,
    )
    offsets = torch.arange(-3 * max_distance, 3 * max_distance + 1)
    actual = RelativeEncoding(config).buckets(offsets)
    expected = [reference.t5_bucket(offset, num_buckets, max_distance, is_causal) for offset in offsets.tolist()]
    assert actual.tolist() == expected
    t5 = T5Attention._relative_position_bucket(offsets, not is_causal, num_buckets, max_distance)
    assert torch.equal(actual, t5)
    idle = set() if is_causal else {num_buckets // 2}  # distance 0 is none of the distances after the query
    assert set(actual.tolist()) == set(range(num_buckets)) - idle


def test_sinusoidal_waves_reach_any_length():
    encoding = POSITIONS["sinusoidal"](tiny_config(max_position_embeddings=4, position_type="sinusoidal"))
    loop = reference.SinusoidalPositions(None, None)
    positions = [0, 1, 5, 1000, 50000]
    zeros = torch.zeros(1, 5, 32, dtype=torch.float64)
    actual = encoding.add_to(zeros, torch.tensor([positions]))[0]
    expected = torch.stack([loop.add(zeros[0, 0], position) for position in positions])
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("position_type", sorted(POSITION_KINDS))
def test_half_precision_positions_stay_exact(position_type):
    """Position 2049 and its neighbours are one number in bfloat16; the angles must be made before rounding."""
    encoding = POSITIONS[position_type](tiny_config(position_type=position_type, max_position_embeddings=4096))
    positions, states = torch.tensor([[2049]]), torch.zeros(1, 1, 32, dtype=torch.bfloat16)
    rough = encoding.add_to(states, positions), encoding.rotate(states, positions)
    exact = encoding.add_to(states.double(), positions), encoding.rotate(states.double(), positions)
    torch.testing.assert_close(rough[0].double(), exact[0].double(), rtol=0.02, atol=0.02)
    for rough_wave, exact_wave in zip(rough[1] or (), exact[1] or (), strict=True):
        torch.testing.assert_close(rough_wave.double(), exact_wave, rtol=0.02, atol=0.02)
