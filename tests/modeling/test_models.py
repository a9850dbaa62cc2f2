"""What every model of the library can do: save, load, resize, checkpoint, compile, export, begin from nothing."""

import pytest
import torch
from support.tiny import GPT2, MIXED, SPARSE, output_of, random_ids, tiny_config, tiny_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from trine import TrineConfig, TrineForCausalLM, TrineModel
from trine.configuration.kinds import ATTENTION_KINDS, POSITION_KINDS
from trine.modeling.masks.visibility import Visibility


CONFIGS = {
    **{kind: {"attention_types": kind} for kind in sorted(ATTENTION_KINDS)},
    **{f"position_{kind}": {"position_type": kind, **MIXED} for kind in sorted(POSITION_KINDS)},
    "gpt2": GPT2,
    "post_norm": {"norm_position": "post", "qk_norm": True, "scale_embedding": True},
    "sparse": {"tie_word_embeddings": False, **SPARSE},
    "sigmoid": {"router_type": "sigmoid", "mlp_layer_types": "dense, sparse", "gated_mlp": False},
    "encoder": {"is_causal": False, **MIXED},
}
RANDOM_BUFFERS = ("random_draws", "projection", "draw", "directions")
EVERY_CONFIG = pytest.mark.parametrize("name", CONFIGS)
LAYER_KEYS = [
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    "self_attn.k_proj.weight",
    "self_attn.o_proj.weight",
    "self_attn.q_proj.weight",
    "self_attn.v_proj.weight",
]
DENSE_KEYS = ["mlp.down_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight"]
SPARSE_KEYS = [
    "mlp.experts.down_proj",
    "mlp.experts.gate_up_proj",
    "mlp.gate.e_score_correction_bias",
    "mlp.gate.weight",
    "mlp.shared_experts.down_proj.weight",
    "mlp.shared_experts.gate_proj.weight",
    "mlp.shared_experts.up_proj.weight",
]


def model_for(name: str, **fields):
    """A float32 model of a named config; sparse ones compute experts in the way that compiles."""
    return tiny_model(**{"dtype": torch.float32, "experts": "batched_mm", **CONFIGS[name], **fields})


def tensors_of(model) -> dict[str, torch.Tensor]:
    """Parameters and all buffers, those that are not saved too."""
    return dict([*model.named_parameters(), *model.named_buffers()])


def loss_gradients(model, ids) -> dict[str, torch.Tensor]:
    model.zero_grad()
    outputs = model(ids, labels=ids) if isinstance(model, TrineForCausalLM) else model(ids)
    loss = outputs.loss if isinstance(model, TrineForCausalLM) else output_of(outputs).square().mean()
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_equal_tensors(actual: dict, expected: dict, **tolerances) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, **tolerances, msg=lambda text, name=name: f"{name}: {text}")


@EVERY_CONFIG
def test_saved_and_loaded_models_are_identical(name, tmp_path):
    model, ids = model_for(name), random_ids(2, 11)
    model.save_pretrained(tmp_path)
    auto_class = AutoModelForCausalLM if model.config.is_causal else AutoModel
    loaded = auto_class.from_pretrained(tmp_path, experts_implementation="batched_mm")
    assert type(loaded) is type(model)
    assert_equal_tensors(tensors_of(loaded), tensors_of(model), rtol=0, atol=0)
    assert torch.equal(output_of(loaded(ids)), output_of(model(ids)))
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == loaded.config.to_dict()
    assert type(AutoConfig.from_pretrained(tmp_path)) is TrineConfig


def test_the_trunk_of_a_saved_head_loads_and_the_other_way_round(tmp_path):
    model, ids = model_for("full"), random_ids(2, 5)
    model.save_pretrained(tmp_path / "head")
    trunk = AutoModel.from_pretrained(tmp_path / "head")
    assert type(trunk) is TrineModel
    assert torch.equal(trunk(ids).last_hidden_state, model.model(ids).last_hidden_state)
    trunk.save_pretrained(tmp_path / "trunk")
    head = AutoModelForCausalLM.from_pretrained(tmp_path / "trunk")
    assert torch.equal(head(ids).logits, model(ids).logits)


def test_state_dict_keys_are_frozen():
    """A key that changes breaks every published checkpoint."""
    dense, sparse = (
        sorted(model_for("full", mlp_layer_types=kind, router_type="sigmoid", num_shared_experts=1).state_dict())
        for kind in ("dense", "sparse")
    )
    shared = ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"]
    for keys, mlp_keys in ((dense, DENSE_KEYS), (sparse, SPARSE_KEYS)):
        layers = [f"model.layers.{index}.{key}" for index in (0, 1) for key in LAYER_KEYS + mlp_keys]
        assert keys == sorted(shared + layers)
    extra = set(model_for("gpt2", qk_norm=True).state_dict()) - set(dense)
    assert "model.positions.embed_positions.weight" in extra
    assert {key.removeprefix("model.layers.0.") for key in extra if "layers.0" in key} == {
        *(f"self_attn.{name}_proj.bias" for name in "qkvo"),
        *(f"self_attn.{name}_norm.{kind}" for name in "qk" for kind in ("weight", "bias")),
        *(f"mlp.{name}_proj.bias" for name in ("up", "down")),
        "input_layernorm.bias",
        "post_attention_layernorm.bias",
    }
    assert "model.positions.relative_attention_bias.weight" in model_for("position_relative").state_dict()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [70, 50])
def test_resized_embeddings_keep_the_old_tokens(size, tied, tmp_path):
    model, ids = model_for("full", tie_word_embeddings=tied), random_ids(2, 6, vocab_size=50)
    with torch.no_grad():
        before = model(ids).logits
    model.resize_token_embeddings(size)
    assert model.config.vocab_size == size and model.lm_head.weight.shape[0] == size
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    kept = min(size, 61)
    torch.testing.assert_close(model(ids).logits[..., :kept], before[..., :kept])
    largest = torch.full((1, 4), size - 1)
    model.train()(largest, labels=largest).loss.backward()
    model.save_pretrained(tmp_path)
    loaded = TrineForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(largest).logits, model.eval()(largest).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_tied_exactly_when_the_config_says_so(tied):
    model = model_for("full", tie_word_embeddings=tied)
    assert (model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()) == tied
    assert model.get_input_embeddings() is model.model.embed_tokens
    assert model.get_output_embeddings() is model.lm_head


@EVERY_CONFIG
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant, name):
    ids = random_ids(2, 11)
    fields = {"router_aux_loss_coef": 0.0, "dtype": torch.float64}  # float32 would add sums up in another order
    expected = loss_gradients(model_for(name, **fields).train(), ids)
    model = model_for(name, **fields).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    assert_equal_tensors(loss_gradients(model, ids), expected)


def test_gradient_checkpointing_keeps_the_gradients_of_router_losses():
    ids, fields = random_ids(2, 11), {"router_aux_loss_coef": 0.5, "router_z_loss_coef": 0.5}
    expected = loss_gradients(model_for("sparse", **fields).train(), ids)
    model = model_for("sparse", **fields).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_equal_tensors(loss_gradients(model, ids), expected)


def test_reentrant_checkpointing_of_router_losses_warns(caplog):
    """It hides the gradient of what a layer records; silence would leave the experts unbalanced."""
    model = model_for("sparse").train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    import trine.modeling.heads.base as heads

    type(heads.logger).warning_once.cache_clear()
    heads.logger.parent.propagate = True
    with caplog.at_level("WARNING"):
        model(random_ids(1, 5), labels=random_ids(1, 5))
    assert "use_reentrant" in caplog.text


# One layer where all are alike: a break would be in the first. Every kind of a part, with padding, is compiled by
# `tests/testing/test_suite.py`; here is what it has not: other attention functions, layouts and backends, and no mask.
ONE_LAYER = {"num_hidden_layers": 1, "attention_types": "full"}
SHORT = dict.fromkeys(("gpt2", "post_norm", "sparse"), ONE_LAYER)
MASKED = [("position_rope", "eager", True), *((name, "sdpa", True) for name in ("gpt2", "post_norm", "encoder"))]
# Without a mask only the table of what is seen is another one, for decoders and for encoders: `sdpa` has none.
UNMASKED = [("position_rope", "sdpa", False), ("encoder", "sdpa", False)]


@pytest.mark.parametrize(("name", "attn", "masked"), [*MASKED, *UNMASKED])
def test_the_forward_pass_compiles_without_a_break(name, attn, masked):
    model, ids = model_for(name, attn=attn, **SHORT.get(name, {})), random_ids(2, 11)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    inputs = {"input_ids": ids} | ({"attention_mask": mask} if masked else {})
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        actual, expected = output_of(compiled(**inputs)), output_of(model(**inputs))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "sparse"])
def test_a_training_step_compiles_without_a_break(name):
    ids = random_ids(2, 11)
    expected = loss_gradients(model_for(name, attn="sdpa", **SHORT.get(name, {})).train(), ids)
    model = model_for(name, attn="sdpa", **SHORT.get(name, {})).train()
    torch.compiler.reset()
    model.forward = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
    assert_equal_tensors(loss_gradients(model, ids), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.no_poison
def test_inductor_compiles_a_training_step():
    ids = random_ids(2, 11)
    one_layer = {"num_hidden_layers": 1, "attention_types": "sliding"}
    expected = loss_gradients(model_for("position_rope", attn="sdpa", **one_layer).train(), ids)
    model = model_for("position_rope", attn="sdpa", **one_layer).train()
    torch.compiler.reset()
    model.forward = torch.compile(model.forward, fullgraph=True)
    assert_equal_tensors(loss_gradients(model, ids), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*sorted(ATTENTION_KINDS), "position_relative", "gpt2", "sparse", "encoder"])
def test_exported_programs_give_the_same_output(name):
    model, ids = model_for(name, attn="sdpa", use_cache=False), random_ids(2, 11)
    program = torch.export.export(model, (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, strict=False)
    other = random_ids(2, 11, seed=5)
    mask = torch.ones_like(other)
    mask[1, :4] = 0
    actual = output_of(program.module()(input_ids=other, attention_mask=mask))
    real = mask == 1
    expected = output_of(model(other, attention_mask=mask))
    torch.testing.assert_close(actual[real], expected[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["position_rope", "position_relative", "gpt2", "sigmoid"])
def test_half_precision_models_load_and_stay_close(name, dtype, tmp_path):
    model, ids = model_for(name, scale=1.0, seed=3), random_ids(2, 11)
    model.save_pretrained(tmp_path)
    loaded = TrineForCausalLM.from_pretrained(tmp_path, dtype=dtype, attn_implementation="sdpa")
    assert {p.dtype for p in loaded.parameters()} == {dtype} and loaded.config.dtype == dtype
    if name == "position_rope":
        assert loaded.model.positions.inv_freq.dtype == torch.float32
    logits = loaded(ids).logits
    assert logits.dtype == dtype
    if name != "sigmoid":  # rounding may choose another expert
        torch.testing.assert_close(logits.float(), model(ids).logits, rtol=0.1, atol=0.1)
    assert logits.isfinite().all()


@EVERY_CONFIG
def test_models_made_on_the_meta_device_are_filled_completely(name):
    """As `from_pretrained` makes them when weights are missing: every tensor is set, with the same distribution."""
    config = tiny_config(**{**CONFIGS[name], "hidden_size": 64, "intermediate_size": 128, "pad_token_id": 2})
    model_class = TrineForCausalLM if config.is_causal else TrineModel
    made, filled = model_class(config), model_class.from_pretrained(None, config=config, state_dict={})
    assert tensors_of(filled).keys() == tensors_of(made).keys()
    constants = {key for key in dict(made.named_buffers()) if not key.endswith(RANDOM_BUFFERS)}
    constants |= {key for key in tensors_of(made) if key.endswith("proj.bias")}
    for key, tensor in tensors_of(filled).items():
        tensor, expected = tensor.double(), tensors_of(made)[key].double()
        assert tensor.isfinite().all(), key
        if key in constants or expected.std() == 0:
            assert torch.equal(tensor, expected), key
        else:
            is_seed = key.endswith("self_attn.draw")  # any number will do
            assert is_seed or abs(tensor.std() / expected.std() - 1) < 0.15, key
            assert not torch.equal(tensor, expected), key
    assert torch.equal(filled.get_input_embeddings().weight[2], torch.zeros(64)), "padding starts at zero"


@EVERY_CONFIG
def test_embeddings_may_be_given_in_place_of_ids(name):
    model, ids = model_for(name), random_ids(2, 7)
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(output_of(model(inputs_embeds=embeds)), output_of(model(ids)))


def test_hidden_states_and_attentions_are_recorded():
    model, ids = model_for("position_none", attn="eager"), random_ids(2, 7)
    outputs = model(ids, output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in outputs.hidden_states] == [(2, 7, 32)] * 4
    assert torch.equal(outputs.hidden_states[0], model.model.embed_tokens(ids))
    layer = model.model.layers[0]
    x = layer.input_layernorm(outputs.hidden_states[0])
    mask = torch.zeros(7, 7).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
    mixed, _ = layer.self_attn(x, Visibility(mask))
    after = outputs.hidden_states[0] + mixed
    torch.testing.assert_close(outputs.hidden_states[1], after + layer.mlp(layer.post_attention_layernorm(after)))
    assert [weights.shape for weights in outputs.attentions] == [(2, 4, 7, 7)] * 3
    assert model(ids).hidden_states is None and model(ids).attentions is None


def test_logits_to_keep_selects_positions():
    model, ids = model_for("full"), random_ids(2, 7)
    logits = model(ids).logits
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[0, 2], mask[1, 5] = True, True
    for keep, expected in (
        (0, logits),
        (1, logits[:, -1:]),
        (3, logits[:, -3:]),
        (torch.tensor([0, 5]), logits[:, [0, 5]]),
        (torch.tensor([[0, 5], [1, 2]]), torch.stack([logits[0, [0, 5]], logits[1, [1, 2]]])),
        (mask, logits[mask]),
    ):
        torch.testing.assert_close(model(ids, logits_to_keep=keep).logits, expected)


def test_tuples_are_returned_on_request():
    model, ids = model_for("full"), random_ids(1, 4)
    assert torch.equal(model(ids, return_dict=False)[0], model(ids).logits)


def test_attention_can_be_switched_at_run_time():
    model, ids = model_for("position_relative"), random_ids(2, 9)
    eager = model(ids).logits
    model.set_attn_implementation("sdpa")
    assert model.config._attn_implementation == model.model.layers[0].self_attn.config._attn_implementation == "sdpa"
    torch.testing.assert_close(model(ids).logits, eager, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "supported"),
    [({}, True), ({"attention_types": "sliding"}, True), ({"attention_types": "full, chunked"}, False)]
    + [({"position_type": "relative"}, False), ({"position_type": "learned"}, True)],
)
def test_flash_attention_is_offered_where_it_is_right(fields, supported):
    assert TrineModel(tiny_config(**fields))._supports_flash_attn == supported
