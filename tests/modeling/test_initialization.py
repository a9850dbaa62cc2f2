"""Weights begin as the config says, and a hundred layers train from there."""

import math

import pytest
import torch
from support.tiny import SPARSE, random_ids, tiny_config

from trine import TrineForCausalLM
from trine.configuration.kinds import ATTENTION_KINDS, INITIALIZERS, POSITION_KINDS


# Each formula, written out: standard deviation from the features that go in and out.
FORMULAS = {
    "normal": lambda fan_in, fan_out: 0.03,
    "xavier": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),  # Glorot and Bengio 2010, equation 12
    "kaiming": lambda fan_in, fan_out: math.sqrt(2 / fan_in),  # He et al. 2015, equation 10
}
WIDTH, INNER, EXPERT, HEADS = 96, 160, 128, 64
# Weight to its features in and out. Those in RESIDUAL are divided by the square root of twice the number of layers.
FANS = {
    "self_attn.q_proj.weight": (WIDTH, HEADS),
    "self_attn.k_proj.weight": (WIDTH, HEADS // 2),
    "self_attn.v_proj.weight": (WIDTH, HEADS // 2),
    "self_attn.o_proj.weight": (HEADS, WIDTH),
    "mlp.gate_proj.weight": (WIDTH, INNER),
    "mlp.up_proj.weight": (WIDTH, INNER),
    "mlp.down_proj.weight": (INNER, WIDTH),
    "mlp.shared_experts.gate_proj.weight": (WIDTH, EXPERT),
    "mlp.shared_experts.up_proj.weight": (WIDTH, EXPERT),
    "mlp.shared_experts.down_proj.weight": (EXPERT, WIDTH),
    "mlp.experts.gate_up_proj": (WIDTH, EXPERT),
    "mlp.experts.up_proj": (WIDTH, EXPERT),
    "mlp.experts.down_proj": (EXPERT, WIDTH),
}
RESIDUAL = ("o_proj.weight", "down_proj.weight", "down_proj")


def model_with(**fields) -> TrineForCausalLM:
    sizes = {"hidden_size": WIDTH, "intermediate_size": INNER, "moe_intermediate_size": EXPERT, "head_dim": 16}
    return TrineForCausalLM(tiny_config(**{**sizes, "initializer_range": 0.03, **fields}))


def test_every_initializer_has_a_formula_here():
    assert set(FORMULAS) == set(INITIALIZERS)


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
@pytest.mark.parametrize("initializer", FORMULAS)
def test_projections_begin_with_the_standard_deviation_of_the_formula(initializer, gated):
    sparse = {**SPARSE, "mlp_layer_types": "dense, sparse"}
    model = model_with(initializer=initializer, gated_mlp=gated, num_hidden_layers=4, **sparse)
    seen = set()
    for index, layer in enumerate(model.model.layers):
        for name, weight in layer.named_parameters():
            if name not in FANS:
                continue
            expected = FORMULAS[initializer](*FANS[name])
            if name.endswith(RESIDUAL):
                expected /= math.sqrt(2 * 4)
            assert weight.std().item() == pytest.approx(expected, rel=0.06), (index, name)
            assert abs(weight.mean().item()) < 0.1 * expected, (index, name)
            seen.add(name)
    missing = {"mlp.experts.up_proj"} if gated else {name for name in FANS if "gate" in name}
    assert seen == set(FANS) - missing


@pytest.mark.parametrize("initializer", FORMULAS)
def test_everything_else_begins_alike(initializer):
    model = model_with(
        initializer=initializer, norm_type="layernorm", attention_bias=True, mlp_bias=True, qk_norm=True,
        router_type="sigmoid", pad_token_id=1, vocab_size=400, tie_word_embeddings=False, **SPARSE,
    )  # fmt: skip
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif "norm" in name:
            assert (tensor == 1).all(), name
        elif name.endswith(("embed_tokens.weight", "lm_head.weight", "mlp.gate.weight")):
            rows = tensor[2:] if "embed" in name else tensor
            assert rows.std().item() == pytest.approx(0.03, rel=0.1), name
    assert not model.model.embed_tokens.weight[1].any(), "padding has no direction"


@pytest.mark.parametrize(
    ("position_type", "name"), [("learned", "embed_positions"), ("relative", "relative_attention_bias")]
)
def test_learned_positions_begin_small(position_type, name):
    model = model_with(position_type=position_type, relative_attention_num_buckets=64)
    weight = getattr(model.model.positions, name).weight
    assert weight.std().item() == pytest.approx(0.03, rel=0.15)


def test_the_seed_decides():
    first, second, third = ((torch.manual_seed(seed), model_with(**SPARSE).state_dict())[1] for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(
        first["model.layers.0.mlp.experts.down_proj"], third["model.layers.0.mlp.experts.down_proj"]
    )


@pytest.mark.parametrize(
    ("initializer", "norm_position"), [*((name, "pre") for name in FORMULAS), ("normal", "post"), ("xavier", "post")]
)
def test_a_hundred_layers_train(initializer, norm_position):
    """Gradients reach the first layer neither vanished nor exploded, and the loss falls within a few steps."""
    torch.manual_seed(0)
    model = TrineForCausalLM(
        tiny_config(num_hidden_layers=100, initializer=initializer, norm_position=norm_position)
    ).train()
    ids = random_ids(4, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(5):
        loss = model(ids, labels=ids).loss
        loss.backward()
        if step == 0:
            norms = [torch.stack([p.grad.norm() for p in layer.parameters()]).norm() for layer in model.model.layers]
            norms = torch.stack(norms)
            assert norms.isfinite().all() and norms.max() / norms.min() < 200
            assert norms[10:].max() / norms[10:].min() < 10, (
                "the embeddings' small size is felt by the first layers only"
            )
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] == pytest.approx(math.log(61), rel=0.05), "an untrained model knows nothing"
    assert losses[-1] < losses[0] - 0.05


OVERFITTED = {
    **{kind: {"attention_types": kind} for kind in sorted(ATTENTION_KINDS)},
    "lsh": {"attention_types": "lsh", "lsh_chunk_length": 12, "lsh_num_buckets": 2},  # else few see the first token
    **{kind: {"position_type": kind} for kind in sorted(POSITION_KINDS)},
    "sparse": SPARSE,
    "sigmoid": {"router_type": "sigmoid", **SPARSE},
}


@pytest.mark.parametrize("name", OVERFITTED)
def test_sixteen_sentences_are_learned_by_heart(name):
    torch.manual_seed(0)
    fields = {"loss_chunk_size": 37, "initializer_range": 0.1, "attention_chunk_size": 12, **OVERFITTED[name]}
    model = TrineForCausalLM(tiny_config(**fields)).train()  # a second chunk would not know which sentence it is in
    ids = random_ids(16, 12)
    ids[:, 0] = 20 + torch.arange(16)  # the first token tells which sentence it is
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    generated = model.generate(ids[:, :1], max_new_tokens=11, do_sample=False, pad_token_id=0)
    assert (generated == ids).float().mean() > 0.99
