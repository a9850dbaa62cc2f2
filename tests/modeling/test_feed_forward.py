"""Dense and sparse feed-forwards, routers and their losses, against the loops in the reference."""

import pytest
import torch
from support import reference
from support.tiny import SPARSE, assert_gradients_equal, expected_output, leaves, random_ids, tiny_config, tiny_model
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from trine import TrineForCausalLM, TrineModel
from trine.configuration.kinds import ROUTER_KINDS
from trine.modeling.feed_forward.balancing import BALANCING_LOSSES, router_losses, router_z_loss
from trine.modeling.feed_forward.experts import EXPERTS, SparseMLP
from trine.modeling.feed_forward.mlp import make_mlp
from trine.modeling.feed_forward.routers import ROUTERS


# PyTorch has no grouped multiplication of float64.
DTYPES = {"eager": torch.float64, "batched_mm": torch.float64, "grouped_mm": torch.float32}
TOLERANCES = {"rtol": 1e-8, "atol": 1e-9}
FLOAT32_TOLERANCES = {"rtol": 1e-3, "atol": 1e-3}
GATED = pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
ROUTER = pytest.mark.parametrize("router_type", sorted(ROUTER_KINDS))


def randomised(module: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    module.to(dtype)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.normal_(std=0.7)
    return module


def sparse_config(**fields):
    return tiny_config(mlp_layer_types="sparse", **fields)


def weights_of(module: nn.Module) -> tuple[dict, reference.Weights]:
    """The oracle's own copy of a module's tensors."""
    tensors = {name: p.detach().clone().double().requires_grad_() for name, p in module.named_parameters()}
    tensors |= dict(module.named_buffers())
    return tensors, reference.Weights(tensors)


def check_against_the_oracle(module: nn.Module, loop, config) -> None:
    """Outputs, and the gradients of the input and of every parameter."""
    dtype = next(module.parameters()).dtype
    tolerances = TOLERANCES if dtype == torch.float64 else FLOAT32_TOLERANCES
    x = torch.randn(9, 32, dtype=dtype, requires_grad=True)
    other_x = x.detach().double().requires_grad_()
    tensors, weights = weights_of(module)
    expected, actual = loop(config, weights, other_x), module(x[None])[0]
    torch.testing.assert_close(actual.double(), expected, **tolerances)
    direction = torch.randn(expected.shape, dtype=torch.float64)
    (actual * direction).sum().backward()
    (expected * direction).sum().backward()
    torch.testing.assert_close(x.grad.double(), other_x.grad, **tolerances)
    assert_gradients_equal(module, tensors, **tolerances)


@GATED
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("act", sorted(reference.ACTIVATIONS))
def test_dense_equals_the_loop(act, bias, gated):
    config = tiny_config(hidden_act=act, mlp_bias=bias, gated_mlp=gated)
    check_against_the_oracle(randomised(make_mlp(config)), reference.mlp, config)


@pytest.mark.parametrize("act", sorted(ACT2FN))
def test_every_activation_of_the_library_works(act):
    config = tiny_config(hidden_act=act, gated_mlp=False)
    mlp = randomised(make_mlp(config))
    x = torch.randn(5, 32, dtype=torch.float64)
    activate = ACT2FN[act].double()
    activate.load_state_dict(mlp.act_fn.state_dict())  # prelu and xielu learn
    expected = activate(x @ mlp.up_proj.weight.T) @ mlp.down_proj.weight.T
    torch.testing.assert_close(mlp(x), expected)


SPARSE_VARIANTS = {
    "one_expert": {"num_experts_per_tok": 1},
    "every_expert": {"num_experts_per_tok": 4},
    "raw_weights": {"norm_topk_prob": False},
    "scaled": {"routed_scaling_factor": 2.5},
    "shared": {"num_shared_experts": 2},
    "biases": {"num_shared_experts": 1, "mlp_bias": True},
}


@ROUTER
@GATED
@pytest.mark.parametrize("experts", DTYPES)
@pytest.mark.parametrize("variant", SPARSE_VARIANTS)
def test_sparse_equals_the_loop(variant, experts, gated, router_type):
    config = sparse_config(
        gated_mlp=gated, router_type=router_type, experts_implementation=experts, **SPARSE_VARIANTS[variant]
    )
    check_against_the_oracle(randomised(SparseMLP(config), DTYPES[experts]), reference.mixture, config)


@ROUTER
@pytest.mark.parametrize("experts", DTYPES)
def test_a_sparse_model_equals_the_loop(experts, router_type):
    tokens, dtype = random_ids(14), DTYPES[experts]
    model = tiny_model(
        router_type=router_type, mlp_layer_types="dense, sparse", scale=2.0, dtype=dtype, position_type="none"
    )
    model.set_experts_implementation(experts)
    assert model.config._experts_implementation == experts
    tensors = leaves(model)
    expected = expected_output(model, tokens.tolist(), tensors)
    logits = model(tokens[None]).logits[0]
    tolerances = TOLERANCES if dtype == torch.float64 else FLOAT32_TOLERANCES
    torch.testing.assert_close(logits.double(), expected, **tolerances)
    logits.mean().backward()
    expected.mean().backward()
    assert_gradients_equal(model, tensors, **tolerances)


def test_the_experts_function_is_really_swapped(monkeypatch):
    from transformers.integrations import moe

    def refuse(*args, **kwargs):
        raise RuntimeError("called")

    monkeypatch.setitem(moe.ALL_EXPERTS_FUNCTIONS._global_mapping, "batched_mm", refuse)
    tiny_model(experts="eager", **SPARSE)(random_ids(1, 3))
    with pytest.raises(RuntimeError, match="called"):
        tiny_model(experts="batched_mm", **SPARSE)(random_ids(1, 3))


def test_the_default_experts_function_is_grouped():
    assert tiny_model(experts=None, **SPARSE).config._experts_implementation == "grouped_mm"


@GATED
@ROUTER
def test_equal_experts_make_a_dense_feed_forward(router_type, gated):
    config = tiny_config(router_type=router_type, gated_mlp=gated, intermediate_size=24, mlp_layer_types="sparse")
    sparse, dense = randomised(SparseMLP(config)), randomised(make_mlp(config))
    with torch.no_grad():
        sparse.experts.down_proj.copy_(dense.down_proj.weight)
        if gated:
            sparse.experts.gate_up_proj.copy_(torch.cat([dense.gate_proj.weight, dense.up_proj.weight]))
        else:
            sparse.experts.up_proj.copy_(dense.up_proj.weight)
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    torch.testing.assert_close(sparse(x), dense(x), **TOLERANCES)


def test_all_experts_are_dense_soft_gating():
    """Every expert's output, weighted by the softmax of the router: an explicit sum without any choice."""
    config = sparse_config(num_experts_per_tok=4)
    moe = randomised(SparseMLP(config))
    x = torch.randn(6, 32, dtype=torch.float64)
    gates = torch.softmax(x @ moe.gate.weight.T, dim=-1)
    gate, up = torch.einsum("eih,th->tei", moe.experts.gate_up_proj, x).chunk(2, dim=-1)
    outputs = torch.einsum("ehi,tei->teh", moe.experts.down_proj, nn.functional.silu(gate) * up)
    torch.testing.assert_close(moe(x), torch.einsum("te,teh->th", gates, outputs), **TOLERANCES)


def test_shared_experts_are_the_sum_of_separate_ones():
    config = sparse_config(num_shared_experts=2)
    moe = randomised(SparseMLP(config))
    x = torch.randn(6, 32, dtype=torch.float64)
    joint = moe.shared_experts
    total = sum(
        (nn.functional.silu(x @ joint.gate_proj.weight[part].T) * (x @ joint.up_proj.weight[part].T))
        @ joint.down_proj.weight[:, part].T
        for part in (slice(0, 24), slice(24, 48))
    )
    _, top_k_weights, top_k_index = moe.gate(x)
    torch.testing.assert_close(moe(x), moe.experts(x, top_k_index, top_k_weights) + total, **TOLERANCES)


@GATED
def test_indices_beyond_the_experts_add_nothing(gated):
    config = sparse_config(gated_mlp=gated, experts_implementation="eager")
    experts = randomised(EXPERTS[gated](config))
    x, weights = torch.randn(3, 32, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64)
    partly = experts(x, torch.tensor([[0, 4], [4, 4], [2, 1]]), weights)
    torch.testing.assert_close(partly[0], experts(x[:1], torch.tensor([[0]]), weights[:1, :1])[0])
    assert torch.equal(partly[1], torch.zeros(32, dtype=torch.float64))


def test_the_balancing_bias_shifts_the_choice_but_not_the_weights():
    config = sparse_config(router_type="sigmoid", norm_topk_prob=False)
    router = randomised(ROUTERS["sigmoid"](config))
    x = torch.randn(40, 32, dtype=torch.float64)
    router.e_score_correction_bias.zero_()
    logits, weights, chosen = router(x)
    router.e_score_correction_bias[2] = 10.0
    _, shifted_weights, shifted = router(x)
    assert (shifted[:, 0] == 2).all() and not (chosen == 2).any(dim=-1).all()
    for table, index in ((weights, chosen), (shifted_weights, shifted)):
        torch.testing.assert_close(table, logits.sigmoid().gather(1, index))
    shifted_weights.sum().backward()
    assert router.weight.grad.abs().sum() > 0
    assert not router.e_score_correction_bias.requires_grad and router.e_score_correction_bias.grad is None
    assert "e_score_correction_bias" in router.state_dict()


@ROUTER
def test_routing_in_half_precision_scores_in_float32(router_type):
    router = randomised(ROUTERS[router_type](sparse_config())).to(torch.bfloat16)
    logits, weights, _ = router(torch.randn(5, 32, dtype=torch.bfloat16))
    assert router.scores(logits).dtype == torch.float32 and weights.dtype == torch.bfloat16


# Losses of the router


def load_balancing_loss(router, router_logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of one layer."""
    return router_losses([router], [router_logits], mask[None])[0]


def test_balancing_loss_of_a_case_by_hand():
    """Three tokens, two experts, one expert each. Chosen 2:1, mean scores 0.6:0.4, so 2 * (2/3 * 0.6 + 1/3 * 0.4)."""
    router = ROUTERS["softmax"](sparse_config(num_experts=2, num_experts_per_tok=1))
    logits = torch.tensor([[0.7, 0.3], [0.8, 0.2], [0.3, 0.7]], dtype=torch.float64).log()
    loss = load_balancing_loss(router, logits, torch.ones(3))
    assert loss.item() == pytest.approx(2 * (2 / 3 * 0.6 + 1 / 3 * 0.4))


@ROUTER
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_router_losses_equal_the_loops(top_k, router_type):
    config = sparse_config(router_type=router_type, num_experts_per_tok=top_k)
    router = randomised(ROUTERS[router_type](config))
    logits = torch.randn(11, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([1.0] * 8 + [0.0] * 3)
    other = logits.detach()[:8].clone().requires_grad_()
    tensors, weights = weights_of(router)
    actual = load_balancing_loss(router, logits, mask), router_z_loss(logits, mask)
    expected = reference.balancing_loss(config, weights, other), reference.z_loss(other)
    torch.testing.assert_close(torch.stack(actual), torch.stack(expected))
    (actual[0] + 3 * actual[1]).backward()
    (expected[0] + 3 * expected[1]).backward()
    torch.testing.assert_close(logits.grad[:8], other.grad)
    assert torch.equal(logits.grad[8:], torch.zeros(3, 4, dtype=torch.float64)), "padding gets no gradient"


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("top_k", [1, 2])
def test_balancing_loss_of_a_layer_equals_mixtral(top_k, masked):
    router = ROUTERS["softmax"](sparse_config(num_experts_per_tok=top_k))
    logits = torch.randn(2 * 9, 4)
    mask = torch.ones(2, 9)
    mask[1, :4] = 0
    mask = mask if masked else None
    expected = load_balancing_loss_func((logits,), 4, top_k, mask)
    torch.testing.assert_close(router_losses([router], [logits], mask)[0], expected)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("top_k", [1, 2])
def test_the_pooled_balancing_loss_equals_mixtral(top_k, masked):
    router, logits = ROUTERS["softmax"](sparse_config(num_experts_per_tok=top_k)), torch.randn(3, 2 * 9, 4)
    mask = torch.ones(2, 9)
    mask[1, :4] = 0
    mask = mask if masked else None
    expected = load_balancing_loss_func(tuple(logits), 4, top_k, mask)
    pooled, mean = (router_losses([router] * 3, list(logits), mask, how)[0] for how in ("pooled", "mean"))
    torch.testing.assert_close(pooled, expected)
    assert abs(mean - expected) > 1e-3, "for several layers the other rule is another number"


def test_layers_make_up_for_each_other_in_the_pooled_loss_only():
    """Two layers that send all tokens to one of two experts, each to another one: 2 by layers, 1 (even) together."""
    load = share = torch.eye(2, dtype=torch.float64)
    losses = {how: compute(load, share).item() for how, compute in BALANCING_LOSSES.items()}
    assert losses == {"mean": 2.0, "pooled": 1.0}


def test_balancing_loss_is_smallest_when_the_load_is_even():
    router = ROUTERS["softmax"](sparse_config(num_experts_per_tok=2))
    even = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]) * 20
    skewed = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).repeat(2, 1) * 20
    assert load_balancing_loss(router, even, torch.ones(2)).item() == pytest.approx(2)
    assert load_balancing_loss(router, skewed, torch.ones(2)).item() == pytest.approx(4, rel=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("values", [0, 7])
def test_padding_does_not_count_in_router_losses(values, side):
    model = tiny_model(router_z_loss_coef=0.5, **SPARSE)
    short, mask = random_ids(1, 6), torch.ones(1, 10, dtype=torch.long)
    where, padding = (slice(4, 10), slice(0, 4)) if side == "left" else (slice(0, 6), slice(6, 10))
    padded = torch.full((1, 10), values)
    padded[:, where], mask[:, padding] = short, 0
    alone = model(short, output_router_logits=True)
    batch = model(padded, attention_mask=mask, output_router_logits=True)
    torch.testing.assert_close(batch.aux_loss, alone.aux_loss, rtol=1e-6, atol=1e-6)
    labels = padded.masked_fill(mask == 0, -100)
    labels[:, where.start] = -100  # else padding on the left predicts the first token
    model.train()
    losses = model(short, labels=short).loss, model(padded, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-6)


@ROUTER
def test_router_logits_are_returned_when_asked_for(router_type):
    model = tiny_model(router_type=router_type, num_hidden_layers=3, mlp_layer_types="sparse, dense, sparse")
    seen = []
    for layer in (0, 2):
        model.model.layers[layer].mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    tokens = random_ids(2, 7)
    outputs = model(tokens, output_router_logits=True)
    assert model(tokens).router_logits is None and model(tokens).aux_loss is None
    assert len(outputs.router_logits) == 2
    for logits, x, layer in zip(outputs.router_logits, seen, (0, 2), strict=False):
        torch.testing.assert_close(logits, x.reshape(14, 32) @ model.model.layers[layer].mlp.gate.weight.T)
    weights = reference.Weights(leaves(model))
    losses = [
        reference.balancing_loss(model.config, weights[f"model.layers.{layer}.mlp.gate"], logits)
        for layer, logits in zip((0, 2), outputs.router_logits, strict=True)
    ]
    torch.testing.assert_close(outputs.aux_loss, sum(losses) / 2)
    model.config.output_router_logits = True
    assert len(model(tokens).router_logits) == 2
    assert model(tokens, output_router_logits=False).router_logits is None
    assert len(model.model(tokens, output_router_logits=True).router_logits) == 2


@pytest.mark.parametrize("model_class", [TrineModel, TrineForCausalLM])
def test_a_decoder_without_experts_has_no_router_logits(model_class):
    """TRL asks for them where its `router_aux_loss_coef` is set, and refuses a dense Llama then."""
    model = tiny_model(model_class)
    with pytest.raises(ValueError, match="but no layer has experts: .* router_aux_loss_coef is set"):
        model(random_ids(1, 4), output_router_logits=True)


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_router_losses_are_added_in_training_only(chunk_size):
    coefficients = {"router_aux_loss_coef": 0.3, "router_z_loss_coef": 0.2}
    model = tiny_model(loss_chunk_size=chunk_size, **coefficients, **SPARSE)
    tokens = random_ids(2, 7)
    total, count = zip(
        *(reference.cross_entropy(expected_output(model, row.tolist())[:-1], row.tolist()[1:]) for row in tokens),
        strict=True,
    )
    expected = sum(total) / sum(count)
    outputs = model(tokens, labels=tokens, output_router_logits=True)
    torch.testing.assert_close(outputs.loss.double(), expected, rtol=1e-3, atol=1e-4)
    z_loss = sum(reference.z_loss(logits) for logits in outputs.router_logits) / 2
    model.train()
    trained = model(tokens, labels=tokens)
    torch.testing.assert_close(trained.loss, outputs.loss + 0.3 * outputs.aux_loss + 0.2 * z_loss, check_dtype=False)
    assert trained.router_logits is None and trained.aux_loss is not None
