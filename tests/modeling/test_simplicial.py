"""2-simplicial attention: each path against the definition, its limits, and what its positions may depend on."""

import pytest
import torch
from support.simplicial_reference import simplicial_reference
from support.tiny import output_of, random_ids, tiny_model

from trine.configuration.kinds import TRILINEAR_KINDS
from trine.modeling.kernels.simplicial import chunked as chunked_module
from trine.modeling.kernels.simplicial.chunked import chunked_operator, keeping_operator, simplicial_chunked
from trine.modeling.kernels.simplicial.chunks import BLOCK_LOGITS, kept_size
from trine.modeling.kernels.simplicial.eager import simplicial_eager
from trine.modeling.kernels.simplicial.flex import simplicial_flex
from trine.modeling.kernels.simplicial.forms import FORMS, make_window
from trine.modeling.kernels.simplicial.inputs import SimplicialInputs, from_flat
from trine.modeling.kernels.simplicial.table import CHUNKED


FORM = pytest.mark.parametrize("form", FORMS)
CAUSAL = pytest.mark.parametrize("is_causal", [True, False], ids=["decoder", "encoder"])
PADDING = ["none", "left and right", "packed"]
# Windows, and numbers of queries, first keys and second keys: the last are those of a cache or of a later chunk.
CASES = [
    ((7, 3), (37, 37, 37)),
    ((3, 7), (13, 13, 13)),
    ((64, 32), (13, 13, 13)),
    ((1, 1), (13, 13, 13)),
    ((8, 5), (1, 1, 1)),
    ((8, 5), (3, 9, 5)),
]
LONG_CASES = [
    ((20, 3), (100, 100, 100)),
    ((1, 1), (70, 70, 70)),
    ((99, 40), (37, 37, 37)),
    ((257, 2), (269, 269, 269)),
    ((20, 5), (35, 120, 39)),
    ((40, 6), (1, 40, 6)),
]


def cases(cases: list, form: str, is_causal: bool):
    """The cases that there are, each with another padding in every form."""
    for number, (windows, lengths) in enumerate(cases):
        if is_causal or len(set(lengths)) == 1:
            yield windows, lengths, PADDING[(number + list(FORMS).index(form)) % len(PADDING)]


def make_segments(padding: str, length: int) -> torch.Tensor | None:
    if padding == "none":
        return None
    if padding == "packed":
        return (torch.arange(length, dtype=torch.int32) // 5 + 1).repeat(2, 1)
    segments = torch.ones(2, length, dtype=torch.int32)
    segments[0, : length // 3] = 0
    segments[1, length - length // 3 :] = 0
    return segments


def make_inputs(heads, groups, lengths, second_window, head_dim=12, dtype=torch.float64):
    torch.manual_seed(0)
    queries, keys, seconds = lengths
    shapes = [(heads, queries), *[(groups, keys)] * 2, *[(groups, seconds)] * 2]
    states = [torch.randn(2, *shape, head_dim, dtype=dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in (*states, torch.randn(heads, second_window, dtype=dtype))]


def chunked(*inputs, **options) -> torch.Tensor:
    return simplicial_chunked(SimplicialInputs(*inputs, **options))


def recomputed(*inputs, **options) -> torch.Tensor:
    """The same, where the backward pass computes the weights again, as it does for longer texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_module, "KEPT_BYTES", 0)
        return chunked(*inputs, **options)


def eager(*inputs, **options) -> torch.Tensor:
    return simplicial_eager(SimplicialInputs(*inputs, **options))[0]


def check(paths, truth, windows, lengths, padding, form, is_causal, heads=4, groups=2, **kwargs):
    """Output and all six gradients of the paths against those of the truth."""
    inputs = make_inputs(heads, groups, lengths, windows[1], **kwargs)
    segments = make_segments(padding, max(lengths))
    first, second = (make_window(size, is_causal) for size in windows)
    options = {"first": first, "second": second, "form": form, "scale": FORMS[form].scale(inputs[0].shape[-1])}
    expected = truth(*inputs, segments, **options)
    direction = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, inputs, direction)
    for path in paths:
        actual = path(*inputs, segments, **options)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)
        if actual.requires_grad:
            gradients = torch.autograd.grad(actual, inputs, direction)
            for gradient, other in zip(gradients, expected_grads, strict=True):
                torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-11)


@FORM
@CAUSAL
def test_outputs_and_gradients_equal_the_definition(is_causal, form):
    for case in cases(CASES, form, is_causal):
        check([chunked, recomputed, eager], simplicial_reference, *case, form, is_causal)


@CAUSAL
@pytest.mark.parametrize("padding", PADDING)
def test_each_window_with_each_padding(padding, is_causal):
    for windows, lengths in CASES:
        if is_causal or len(set(lengths)) == 1:
            check([chunked, recomputed, eager], simplicial_reference, windows, lengths, padding, "hadamard", is_causal)


@FORM
@CAUSAL
@pytest.mark.parametrize("block", [2**20, 1], ids=["all heads", "one head"])
def test_chunks_of_longer_texts_equal_the_whole(block, is_causal, form, monkeypatch):
    monkeypatch.setitem(BLOCK_LOGITS, "cpu", block)
    for case in cases(LONG_CASES, form, is_causal):
        check([chunked, recomputed], eager, *case, form, is_causal, head_dim=6)


@FORM
@CAUSAL
def test_windows_are_clipped_to_the_text(is_causal, form):
    def clipped(*inputs, **options):
        return CHUNKED(SimplicialInputs(*inputs, **options))[0]

    for windows, lengths, padding in cases([*CASES, ((99, 40), (37, 37, 37))], form, is_causal):
        check([clipped], simplicial_reference, windows, lengths, padding, form, is_causal)


@pytest.mark.parametrize(("heads", "groups"), [(3, 1), (2, 2), (6, 3)])
def test_grouped_heads_and_large_heads(heads, groups):
    case = (300, 4), (33, 33, 33), "none"
    check([chunked, recomputed, eager], simplicial_reference, *case, "hadamard", True, heads, groups, head_dim=128)


@FORM
@CAUSAL
@pytest.mark.parametrize(
    ("dtype", "tolerance", "grad_tolerance"), [(torch.float32, 1e-5, 1e-5), (torch.bfloat16, 1e-2, 2e-2)], ids=str
)
def test_lower_precision_is_near_float64(dtype, tolerance, grad_tolerance, is_causal, form):
    head_dim = 126 if form == "determinant" else 128
    for windows, lengths, padding in cases(LONG_CASES, form, is_causal):
        low = make_inputs(4, 2, lengths, windows[1], head_dim, dtype)
        high = [tensor.detach().double().requires_grad_() for tensor in low]
        segments = make_segments(padding, max(lengths))
        first, second = (make_window(size, is_causal) for size in windows)
        options = {"first": first, "second": second, "form": form, "scale": FORMS[form].scale(head_dim)}
        expected = eager(*high, segments, **options)
        direction = torch.randn_like(low[0])  # as large as the output
        expected_grads = torch.autograd.grad(expected, high, direction.double())
        for path in (chunked, recomputed):
            actual = path(*low, segments, **options)
            assert actual.dtype == dtype and relative_error(actual, expected) <= tolerance
            grads = torch.autograd.grad(actual, low, direction)
            for name, *pair in zip(("q", "k", "v", "k'", "v'", "bias"), grads, expected_grads, strict=True):
                assert relative_error(*pair) <= grad_tolerance, (path, name, windows, lengths, padding)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference, in that of what is expected (0, if both are 0)."""
    difference, size = (actual.double() - expected).norm().item(), expected.norm().item()
    return difference / size if size else difference


@FORM
@CAUSAL
def test_flex_outputs_equal_the_definition(is_causal, form):
    def compute(*inputs, **options):
        with torch.no_grad():
            tensors = (tensor if tensor is None else tensor.detach() for tensor in inputs)
            return simplicial_flex(SimplicialInputs(*tensors, **options))

    for padding in PADDING:
        for lengths in ((40, 40, 40), (3, 9, 5)) if is_causal else ((40, 40, 40),):
            check([compute], eager, (8, 5), lengths, padding, form, is_causal, head_dim=48)


@pytest.mark.parametrize("padding", PADDING)
def test_marginals_are_those_of_the_definition(padding):
    inputs = make_inputs(4, 2, (3, 9, 5), 5)
    first, second = make_window(8, True), make_window(5, True)
    options = {"first": first, "second": second, "form": "complex", "scale": 0.2}
    segments = make_segments(padding, 9)
    expected = simplicial_reference(*inputs, segments, return_marginals=True, **options)
    for actual, other in zip(simplicial_eager(SimplicialInputs(*inputs, segments, **options)), expected, strict=True):
        torch.testing.assert_close(actual, other, rtol=1e-10, atol=1e-11)


def test_the_operator_is_well_formed():
    inputs = make_inputs(2, 1, (5, 5, 5), 3, head_dim=6)
    first, second = make_window(8, True), make_window(3, True)
    whole = SimplicialInputs(*inputs, make_segments("packed", 5), first, second, "complex", 0.3)
    assert whole.flat()[7:] == ([7, 0, 2, 0], "complex", 0.3)
    assert all(one is other or one == other for one, other in zip(from_flat(*whole.flat()), whole, strict=True))
    for operator in (chunked_operator, keeping_operator):
        torch.library.opcheck(operator, whole.flat())


def test_weights_are_kept_where_they_are_few_and_a_backward_pass_comes():
    """The names of the operators that autograd, or nobody, differentiates."""
    first, second = make_window(8, True), make_window(3, True)
    options = {"segments": None, "first": first, "second": second, "form": "hadamard", "scale": 0.3}
    inputs = make_inputs(2, 1, (40, 40, 40), 3)
    assert "simplicial_kept" in str(chunked(*inputs, **options).grad_fn)
    assert "simplicial_kept" not in str(recomputed(*inputs, **options).grad_fn)
    with torch.no_grad():
        assert chunked(*inputs, **options).grad_fn is None
    numbers = kept_size(SimplicialInputs(*inputs, **options))
    assert numbers == 2 * 2 * 40 * 3 * (40 + 12), "32 queries of a chunk see 39 keys, all with alignment"
    with pytest.MonkeyPatch.context() as patch:
        for limit, name in ((8 * numbers, "simplicial_kept"), (8 * numbers - 1, "simplicial_chunked")):
            patch.setattr(chunked_module, "KEPT_BYTES", limit)
            assert name in str(chunked(*inputs, **options).grad_fn)


@CAUSAL
@pytest.mark.parametrize(
    ("form", "position_type"),
    [("complex", "rope"), ("complex", "none"), ("hadamard", "learned"), ("hadamard", "none")],
)
def test_a_warm_start_is_sliding_window_attention(form, position_type, is_causal):
    shared = {"is_causal": is_causal, "position_type": position_type, "num_hidden_layers": 1}
    sliding = tiny_model(attention_types="sliding", sliding_window=8 if is_causal else 4, scale=1.0, **shared)
    lifted = tiny_model(
        attention_types="simplicial",
        simplicial_window=8 if is_causal else 9,
        simplicial_form=form,
        simplicial_warm_start=True,
        **shared,
    )
    fresh = type(lifted)(lifted.config).double()
    getattr(fresh, "model", fresh).layers[0].self_attn.initialize()  # once more, for constants in float64
    own = {name: weight for name, weight in fresh.state_dict().items() if "second" in name or "offset" in name}
    lifted.load_state_dict({**sliding.state_dict(), **own})
    tokens = random_ids(2, 25)
    actual, expected = output_of(lifted(tokens)), output_of(sliding(tokens))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [form for form, kind in TRILINEAR_KINDS.items() if kind.rotary_factor])
def test_rotary_positions_reach_the_form_through_differences_only(form):
    rope = {"rope_theta": 10000.0, "partial_rotary_factor": TRILINEAR_KINDS[form].rotary_factor}
    fields = {"attention_types": "simplicial", "simplicial_form": form, "head_dim": 12, "rope_parameters": rope}
    model, tokens = tiny_model(dtype=torch.float32, scale=2.0, **fields), random_ids(1, 20)
    positions = torch.arange(20)[None]
    with torch.no_grad():
        at_zero, later = (model(tokens, position_ids=positions + shift).logits for shift in (0, 17))
        other = model(tokens, position_ids=2 * positions).logits
    torch.testing.assert_close(later, at_zero, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(other, at_zero, rtol=1e-2, atol=1e-2), "the positions are read"


def test_the_cache_holds_both_windows_whatever_the_length():
    model = tiny_model(attention_types="simplicial", dtype=torch.float32)
    for length in (20, 60):
        layer = model(random_ids(1, length), use_cache=True).past_key_values.layers[0]
        assert layer.keys.shape == layer.values.shape == (1, 2, 7, 8)
        assert layer.second_keys.shape == layer.second_values.shape == (1, 2, 2, 8)
        assert layer.get_seq_length() == length
        assert layer.keys.untyped_storage().nbytes() == 2 * 7 * 8 * 4, "no view of the prompt"
