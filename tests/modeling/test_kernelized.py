"""Linear attention and the Performer: chunks, states and features against loops in float64 and closed forms."""

import math

import pytest
import torch
from support import reference
from support.tiny import expected_output, leaves, output_of, random_ids, tiny_config, tiny_model

from trine.configuration.kinds import LINEAR_FEATURE_MAPS
from trine.modeling.attention.linear import FEATURE_MAPS
from trine.modeling.attention.performer import PerformerAttention, draw_directions
from trine.modeling.caches.kernelized import KernelizedCacheLayer
from trine.modeling.kernels.linear import chunkwise as mixing_module
from trine.modeling.kernels.linear import states as states_module
from trine.modeling.kernels.linear.chunkwise import kernelized_mixing
from trine.modeling.kernels.linear.states import KernelState, update_state
from trine.modeling.masks.visibility import EVERYTHING, Visibility


CAUSAL = pytest.mark.parametrize("is_causal", [True, False], ids=["decoder", "encoder"])
KIND = pytest.mark.parametrize("kind", ["linear", "performer"])
OWN_NORMS = pytest.mark.parametrize("own_norms", [False, True], ids=["shared", "own norms"])
SCALED = pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
TOLERANCES = {"rtol": 1e-9, "atol": 1e-10}


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 4 tokens, and states summed 2 at a time, so that short texts have many, and groups of groups."""
    monkeypatch.setattr(mixing_module, "chunk_size", lambda *sizes: 4)
    monkeypatch.setattr(states_module, "GROUP", 2)


def make_inputs(length, own_norms, scaled, batch=2, heads=4, groups=2, features=3, size=5) -> dict:
    """Arguments of `kernelized_mixing` by name, in float64, leaves of the gradient where they have one."""
    shapes = {"query": (heads, features), "key": (groups, features), "value": (groups, size)}
    if own_norms:
        shapes |= {"norm_query": (heads, features), "norm_key": (groups, features)}
    inputs = {
        name: torch.rand(batch, count, length, width, dtype=torch.float64).requires_grad_()
        for name, (count, width) in shapes.items()
    }
    if scaled:
        inputs["log_scale"] = 5 * torch.randn(batch, groups, length, dtype=torch.float64)
    return inputs


def loop(is_causal, query, key, value, norm_query=None, norm_key=None, log_scale=None, labels=None) -> torch.Tensor:
    """The definition, a query at a time."""
    norm_query, norm_key = (query, key) if norm_query is None else (norm_query, norm_key)
    rows = []
    for b, h, i in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        g = h * key.shape[1] // query.shape[1]
        above = below = torch.tensor(0.0, dtype=torch.float64)
        for j in range(i + 1 if is_causal else query.shape[2]):
            if labels is not None and labels[b, i] != labels[b, j]:
                continue
            factor = math.exp(log_scale[b, g, j]) if log_scale is not None else 1.0
            above = above + factor * (query[b, h, i] @ key[b, g, j]) * value[b, g, j]
            below = below + factor * (norm_query[b, h, i] @ norm_key[b, g, j])
        rows.append(above / below)
    return torch.stack(rows).view(*query.shape[:3], -1)


def check(inputs: dict, is_causal: bool, labels: torch.Tensor | None) -> None:
    expected = loop(is_causal, **inputs, labels=labels)
    actual = kernelized_mixing(**inputs, is_causal=is_causal, labels=labels)
    torch.testing.assert_close(actual, expected, **TOLERANCES)
    direction, variables = torch.randn_like(expected), [x for x in inputs.values() if x.requires_grad]
    gradients = (torch.autograd.grad(output, variables, direction) for output in (actual, expected))
    for gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, other, **TOLERANCES)


@CAUSAL
@SCALED
@OWN_NORMS
@pytest.mark.parametrize("length", [1, 3, 4, 5, 23])
def test_outputs_and_gradients_equal_the_definition(length, own_norms, scaled, is_causal, small_chunks):
    check(make_inputs(length, own_norms, scaled), is_causal, None)


@CAUSAL
@SCALED
@OWN_NORMS
@pytest.mark.parametrize("share", [0.05, 0.6])
def test_packed_sequences_equal_the_definition(share, own_norms, scaled, is_causal, small_chunks):
    for length in (2, 4, 23):
        labels = 1 + (torch.rand(2, length) < share).int().cumsum(1, dtype=torch.int32)
        check(make_inputs(length, own_norms, scaled), is_causal, labels)


def part_of(inputs: dict, where: slice) -> dict:
    return {name: states[:, :, where] for name, states in inputs.items()}


def state_after(before: KernelState | None, inputs: dict) -> KernelState:
    norm_key, scale = inputs.get("norm_key", inputs["key"]), inputs.get("log_scale")
    return update_state(before, inputs["key"], norm_key, inputs["value"], scale)


@SCALED
@OWN_NORMS
def test_a_state_in_place_of_earlier_keys_changes_nothing(own_norms, scaled, small_chunks):
    """At every split, and token by token."""
    inputs = make_inputs(14, own_norms, scaled)
    whole = kernelized_mixing(**inputs, is_causal=True)
    for split in range(1, 14):
        first, second = part_of(inputs, slice(split)), part_of(inputs, slice(split, None))
        actual = kernelized_mixing(**second, is_causal=True, before=state_after(None, first))
        torch.testing.assert_close(actual, whole[:, :, split:], **TOLERANCES)
    state = None
    for place in range(14):
        token = part_of(inputs, slice(place, place + 1))
        actual = kernelized_mixing(**token, is_causal=True, before=state)
        torch.testing.assert_close(actual, whole[:, :, place : place + 1], **TOLERANCES)
        state = state_after(state, token)


@SCALED
def test_many_chunks_of_natural_size_equal_the_definition(scaled):
    """More chunks than one table of states holds."""
    length = 40 * mixing_module.chunk_size(4, 4) + 3
    inputs = make_inputs(length, False, scaled, batch=1, heads=1, groups=1, features=4, size=4)
    actual = kernelized_mixing(**inputs, is_causal=True)
    scores = inputs["query"] @ inputs["key"].transpose(2, 3)
    if scaled:
        scores = scores * inputs["log_scale"].exp()[:, :, None]
    scores = scores.tril()
    torch.testing.assert_close(actual, scores @ inputs["value"] / scores.sum(-1, keepdim=True), **TOLERANCES)


@SCALED
@pytest.mark.parametrize("packed", [False, True])
def test_later_keys_change_no_bit(packed, scaled, small_chunks):
    inputs = {name: x.detach().float() for name, x in make_inputs(22, True, scaled).items()}
    labels = torch.tensor([[1] * 7 + [2] * 15, [1] * 22], dtype=torch.int32) if packed else None
    before = kernelized_mixing(**inputs, is_causal=True, labels=labels)
    for place in (0, 3, 4, 13, 21):
        other = {name: states.clone() for name, states in inputs.items()}
        for states in other.values():
            states[:, :, place] += 3
        after = kernelized_mixing(**other, is_causal=True, labels=labels)
        assert torch.equal(before[:, :, :place], after[:, :, :place])
        assert not torch.equal(before[:, :, place], after[:, :, place])


@CAUSAL
@KIND
@pytest.mark.parametrize("position_type", ["rope", "learned"])
def test_padding_with_holes_changes_nothing(position_type, kind, is_causal, small_chunks):
    """In rows longer than a chunk, with gradients; the loop reads the real tokens alone."""
    fields = {"attention_types": kind, "is_causal": is_causal, "position_type": position_type}
    model = tiny_model(num_hidden_layers=1, **fields)
    ids = random_ids(2, 17)
    mask = torch.ones_like(ids)
    mask[0, :5] = mask[0, 9:12] = mask[1, 14:] = mask[1, 3] = 0
    output = output_of(model(ids, attention_mask=mask, use_cache=False))
    for row, real, actual in zip(ids, mask == 1, output, strict=True):
        torch.testing.assert_close(actual[real], expected_output(model, row[real].tolist()), rtol=1e-5, atol=1e-5)


@CAUSAL
@pytest.mark.parametrize("feature_map", LINEAR_FEATURE_MAPS)
@pytest.mark.parametrize("position_type", ["rope", "none"])
def test_every_feature_map_equals_the_loop(position_type, feature_map, is_causal, small_chunks):
    fields = {"linear_feature_map": feature_map, "position_type": position_type, "is_causal": is_causal}
    model, ids = tiny_model(attention_types="linear", num_hidden_layers=1, **fields), random_ids(13)
    tensors = leaves(model)
    expected, actual = expected_output(model, ids.tolist(), tensors), output_of(model(ids[None], use_cache=False))[0]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert actual.isfinite().all()


def test_feature_maps_are_their_closed_forms():
    assert FEATURE_MAPS.keys() == LINEAR_FEATURE_MAPS.keys()
    x = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    expected = {
        "elu": [2.0, math.exp(-2), 1.5],
        "relu": [1.0, 0.0, 0.5],
        "dpfp": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # of the ring 1, 0, 0.5, 0, 2, 0 no neighbours are positive
    }
    parts = [math.exp(value) for value in (1.0, -2.0, 0.5)], [math.exp(-value) for value in (1.0, -2.0, 0.5)]
    expected["softmax"] = [value / sum(part) for part in parts for value in part]
    for name, values in expected.items():
        torch.testing.assert_close(FEATURE_MAPS[name](x), torch.tensor([values], dtype=torch.float64))
    pair = torch.tensor([1.0, 2.0, -3.0])  # the ring is 1, 2, 0, 0, 0, 3
    assert FEATURE_MAPS["dpfp"](pair).tolist() == [2, 0, 0, 0, 0, 3]
    for name, kind in LINEAR_FEATURE_MAPS.items():
        mapped = FEATURE_MAPS[name](torch.randn(7, 6))
        assert mapped.shape == (7, 6 * kind.expansion) and (mapped >= 0).all()


def test_rotary_positions_of_linear_layers_are_relative(small_chunks):
    model, ids = tiny_model(attention_types="linear", dtype=torch.float32, scale=2.0), random_ids(1, 20)
    positions = torch.arange(20)[None]
    with torch.no_grad():
        at_zero, later = (model(ids, position_ids=positions + shift).logits for shift in (0, 17))
        other = model(ids, position_ids=2 * positions).logits
    torch.testing.assert_close(later, at_zero, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(other, at_zero, rtol=1e-2, atol=1e-2), "the positions are read"


def test_a_query_that_shares_no_feature_gets_zero_and_no_gradient():
    query, key = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    states = [x.view(1, 1, 1, 2).requires_grad_() for x in (query, key, torch.tensor([3.0, 4.0]))]
    output = kernelized_mixing(*states, is_causal=True)
    output.sum().backward()
    assert torch.equal(output, torch.zeros(1, 1, 1, 2)) and all(torch.equal(x.grad, 0 * x) for x in states)


def make_performer(features=64, size=16, **fields) -> PerformerAttention:
    config = tiny_config(head_dim=size, attention_types="performer", performer_num_features=features, **fields)
    layer = PerformerAttention(config, 0)
    layer.initialize()
    return layer.eval()


def softmax_attention(query, key, value, is_causal) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal, enable_gqa=True)


def performer_output(layer, query, key, value) -> torch.Tensor:
    output = layer.mix(layer.features(query, key, None), value, EVERYTHING, None)
    return output.unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)


@CAUSAL
@pytest.mark.parametrize("packed", [False, True])
def test_huge_keys_stay_finite_in_float32(packed, is_causal, small_chunks):
    """Keys and queries of norm 50, whose features reach from exp(-200) on; the loop in float64 needs no scale."""
    layer = make_performer(features=40, is_causal=is_causal)
    query, key = (50 * torch.nn.functional.normalize(torch.randn(1, n, 19, 16), dim=-1) for n in (4, 2))
    value, segments = torch.randn(1, 2, 19, 16), None
    if packed:
        segments = torch.tensor([[1] * 6 + [2] * 13], dtype=torch.int32)
    actual = layer.mix(layer.features(query, key, None), value, Visibility(segments=segments), None)
    powers = [layer.log_features(x.double()).exp() for x in (query, key)]
    expected = loop(is_causal, *powers, value.double(), labels=segments).transpose(1, 2).flatten(2)
    assert actual.isfinite().all() and expected.isfinite().all()
    torch.testing.assert_close(actual, expected.float(), rtol=1e-3, atol=1e-3)


@KIND
def test_half_precision_is_computed_in_float32(kind):
    model = tiny_model(attention_types=kind, scale=1.0, dtype=torch.float32)
    ids = random_ids(2, 40)
    with torch.no_grad():
        expected = model(ids).logits
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(ids).logits
        half = model.bfloat16()(ids).logits
    assert half.dtype == torch.bfloat16
    for actual in (mixed.float(), half.float()):
        torch.testing.assert_close(actual, expected, rtol=0.1, atol=0.1)


def kernel_estimates(directions: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Estimates of exp(<x, y>) from each set of directions (draws, F, D): equation 5 of the paper."""
    features = [(directions @ z - z @ z / 2).exp() for z in (x, y)]
    return (features[0] * features[1]).mean(-1)


def test_estimates_of_the_kernel_have_no_bias_and_little_variance():
    x, y = (0.7 * torch.nn.functional.normalize(torch.randn(8), dim=0) for _ in range(2))
    draws = torch.stack([draw_directions(12, 8, seed) for seed in range(4000)])
    orthogonal = kernel_estimates(draws, x, y)
    independent = kernel_estimates(torch.randn(4000, 12, 8), x, y)
    error = orthogonal.std() / math.sqrt(len(orthogonal))
    assert abs(orthogonal.mean() - torch.exp(x @ y)) < 4 * error
    assert orthogonal.var() < 0.9 * independent.var()


def test_directions_are_orthogonal_blocks_of_gaussian_rows():
    directions = draw_directions(20, 8, 3)
    assert directions.shape == (20, 8) and directions.dtype == torch.float32
    for block in directions.split(8):
        gram = block @ block.T
        torch.testing.assert_close(gram, gram.diagonal().diag(), rtol=0, atol=1e-5)
    many = torch.stack([draw_directions(8, 8, seed) for seed in range(3000)])
    torch.testing.assert_close(many.mean(0), torch.zeros(8, 8), rtol=0, atol=0.09)  # five standard errors
    torch.testing.assert_close(many.square().mean(0), torch.ones(8, 8), rtol=0, atol=0.13)
    lengths = many.norm(dim=-1).square()  # chi-squared: mean D, variance 2 D
    assert abs(lengths.mean() - 8) < 0.15 and abs(lengths.var() - 16) < 1.5


@CAUSAL
def test_the_error_against_softmax_attention_falls_with_the_root_of_the_features(is_causal):
    query, key, value = (torch.randn(1, n, 48, 16, dtype=torch.float64) for n in (4, 2, 2))
    query, key = 0.3 * query, 0.3 * key  # longer ones take more features before the error falls in this way
    expected, errors = softmax_attention(query, key, value, is_causal), []
    counts = (16, 64, 256, 1024)
    for count in counts:
        layer = make_performer(count, is_causal=is_causal)
        squares = []
        for _ in range(24):
            layer.redraw()
            squares.append((performer_output(layer, query, key, value) - expected).square().mean())
        errors.append(torch.stack(squares).mean().sqrt().item())
    slope = math.log(errors[-1] / errors[0]) / math.log(counts[-1] / counts[0])
    assert -0.6 < slope < -0.4 and errors[-1] < 0.15 * expected.std()


def test_draws_follow_from_the_seed_and_their_number(tmp_path):
    model = tiny_model(attention_types="performer", dtype=torch.float32)
    layers = [layer.self_attn for layer in model.model.layers]
    assert not torch.equal(layers[0].projection, layers[1].projection)
    first = layers[0].projection.clone()
    layers[0].redraw()
    assert layers[0].draw[1] == 1 and not torch.equal(layers[0].projection, first)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    torch.rand(3)  # the global generator has no part in it
    for layer, other in zip(layers, (layer.self_attn for layer in loaded.model.layers), strict=True):
        layer.redraw()
        other.redraw()
        assert torch.equal(layer.draw, other.draw) and torch.equal(layer.projection, other.projection)
    assert layers[0].draw[1] == 2


@pytest.mark.parametrize(("kind", "features"), [("linear", 8), ("performer", 12)])
def test_the_cache_is_of_one_size_whatever_the_length(kind, features):
    model = tiny_model(attention_types=kind, dtype=torch.float32)
    for length in (1, 20, 60):
        cache = model(random_ids(1, length), use_cache=True).past_key_values
        model(random_ids(1, 1), past_key_values=cache, use_cache=True)
        layer = cache.layers[0]
        assert type(layer).__name__ == KernelizedCacheLayer.__name__ and layer.get_seq_length() == length + 1
        held = {name: getattr(layer, name) for name in layer.names if getattr(layer, name) is not None}
        assert held["sums"].shape == (1, 2, features, 8) and held["norms"].shape == (1, 2, 1, features)
        assert held.keys() == {"sums", "norms"} | ({"scale"} if kind == "performer" else set())
        for states in held.values():
            assert states.untyped_storage().nbytes() == states.numel() * 4, "no view of the prompt"


@KIND
def test_cropping_gives_the_state_before(kind):
    model = tiny_model(attention_types=kind)
    ids = random_ids(2, 20)

    def cache_of(length):
        return model(ids[:, :length], use_cache=True).past_key_values

    cache = cache_of(8)
    with pytest.raises(RuntimeError, match="2 tokens are to be removed, but 0 were recorded since the last crop"):
        cache.layers[0].crop(-2)
    for layer in cache.layers:
        layer.activate_past_recording()
    for start, stop, kept in ((8, 9, 9), (9, 15, 11), (11, 16, 11), (11, 12, 12)):
        for place in range(start, stop):
            model(ids[:, place : place + 1], past_key_values=cache, use_cache=True)
        for layer in cache.layers:
            layer.crop(kept - stop)
        for layer, other in zip(cache.layers, cache_of(kept).layers, strict=True):
            assert layer.get_seq_length() == kept and layer.keys is None
            for state, expected in zip(layer.state(), other.state(), strict=True):
                if expected is not None:
                    torch.testing.assert_close(state, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(RuntimeError, match="1 tokens are to be removed, but 0 were recorded"):
        cache.layers[0].crop(-1)


@KIND
@pytest.mark.parametrize("masked", [False, True], ids=["packed encoder", "padded decoder"])
def test_layers_compile_and_export(masked, kind, small_chunks):
    model = tiny_model(
        num_hidden_layers=1, dtype=torch.float32, attention_types=kind, is_causal=masked, use_cache=False
    )
    inputs = {"input_ids": random_ids(2, 11)}
    if masked:
        inputs["attention_mask"] = torch.ones(2, 11, dtype=torch.long)
        inputs["attention_mask"][0, :3] = 0
    else:
        inputs["position_ids"] = torch.cat([torch.arange(5), torch.arange(6)])[None].expand(2, -1)
    torch.compiler.reset()
    with torch.no_grad():
        expected = output_of(model(**inputs))
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(output_of(compiled(**inputs)), expected, rtol=1e-4, atol=1e-4)
        program = torch.export.export(model, (), inputs, strict=False)
        torch.testing.assert_close(output_of(program.module()(**inputs)), expected, rtol=1e-4, atol=1e-4)


def test_the_reference_knows_every_feature_map():
    assert reference.FEATURE_MAPS.keys() == LINEAR_FEATURE_MAPS.keys()
