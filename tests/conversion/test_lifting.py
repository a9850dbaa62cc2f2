"""Lifted models compute what they computed before, and train on with what is new."""

import copy

import pytest
import torch
from support.conversion_sources import ENCODER
from support.tiny import GPT2, random_ids, tiny_model
from support.translators import pad_rows, tiny_translator
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from trine import (
    TrineForCausalLM,
    TrineForMaskedLM,
    TrineForSequenceClassification,
    TrineModel,
    convert,
    lift,
)
from trine.conversion.lifts.change import exact_length, largest_change
from trine.conversion.lifts.lift import make_lift


OPTIONS = {
    "simplicial": {},
    "sliding": {"sliding_window": 8},
    "sparse": {"num_experts": 3},
    "deeper": {"after": [0, 0, 1]},
    "longer": {"max_position_embeddings": 130},
}
PLAIN = {**GPT2, "is_causal": False, "pad_token_id": 0}
MODELS = {
    "decoder": lambda **o: tiny_model(pad_token_id=0, qk_norm=True, **o),
    "gpt2": lambda **o: tiny_model(**GPT2, **o),
    "encoder": lambda **o: tiny_model(TrineForMaskedLM, is_causal=False, pad_token_id=0, **o),
    "bert": lambda **o: tiny_model(TrineForMaskedLM, **PLAIN, norm_position="post", **o),
    "classifier": lambda **o: tiny_model(TrineForSequenceClassification, **PLAIN, add_pooling_layer=True, **o),
    "trunk": lambda **o: tiny_model(TrineModel, **PLAIN, add_pooling_layer=True, **o),
    "encoder-decoder": lambda scale=1.5, **o: tiny_translator(scale=scale),
}
# Tokens up to which a window of 8 keeps the function: of the token itself and those before, or centred.
LENGTHS = {
    ("simplicial", False): 8,
    ("simplicial", True): 4,
    ("sliding", False): 8,
    ("sliding", True): 9,
    ("longer", False): 96,
    ("longer", True): 96,
}


def cases() -> list[tuple[str, str]]:
    pairs = [(kind, name) for kind in OPTIONS for name in MODELS]
    return [pair for pair in pairs if pair != ("deeper", "bert")]


@pytest.mark.parametrize(("kind", "name"), cases())
def test_the_function_stays_up_to_the_exact_length_and_not_beyond(kind, name):
    model = MODELS[name]()
    lifted = lift(model, kind, **OPTIONS[kind])
    assert type(lifted) is type(model) and lifted.dtype == torch.float64
    sides = {"decoder": [False], "gpt2": [False], "encoder-decoder": [True, False]}.get(name, [True])
    length = exact_length(model, lifted, make_lift(kind, OPTIONS[kind]))
    assert length == min((LENGTHS[kind, side] for side in sides if (kind, side) in LENGTHS), default=None)
    assert largest_change(model, lifted, length=length) <= 1e-12
    if kind in ("simplicial", "sliding") or (kind == "longer" and name in ("decoder", "encoder", "encoder-decoder")):
        assert largest_change(model, lifted, length=length + 1) > 1e-6


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("name", ["decoder", "encoder"])
def test_in_float32_with_padding_on_either_side(kind, name):
    model = MODELS[name](scale=1.5).float()
    lifted = lift(model, kind, **OPTIONS[kind])
    rows = [random_ids(4), random_ids(2, seed=1), random_ids(3, seed=2)]
    for side in ("left", "right"):
        inputs = pad_rows(rows, side)
        real = inputs["attention_mask"] == 1
        before, after = (each(**inputs).logits[real] for each in (model, lifted))
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("name", ["decoder", "encoder-decoder"])
def test_cached_generation_stays(kind, name):
    model = MODELS[name]()
    lifted = lift(model, kind, **OPTIONS[kind])
    settings = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    before, after = (each.generate(random_ids(2, 3), **settings) for each in (model, lifted))
    assert torch.equal(before.sequences, after.sequences)
    torch.testing.assert_close(torch.stack(after.logits), torch.stack(before.logits), rtol=0, atol=1e-10)


def train(model, steps=6, length=8, **inputs) -> tuple[list[float], set[str]]:
    """Losses of a few steps on one batch, and the parameters that got a gradient."""
    model.train()
    optimizer, losses, reached = torch.optim.Adam(model.parameters(), lr=1e-3), [], set()
    ids = random_ids(4, length)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids, **inputs).loss
        optimizer.zero_grad()
        loss.backward()
        reached |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
        losses.append(loss.item())
    return losses, reached


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("simplicial", name) for name in ("decoder", "encoder", "encoder-decoder")),
        *(("sparse", name) for name in ("decoder", "bert", "encoder-decoder")),
        *(("deeper", name) for name in ("decoder", "gpt2", "encoder-decoder")),
        ("sliding", "decoder"),
    ],
)
def test_it_trains_on_and_what_is_new_has_gradients(kind, name):
    model = MODELS[name](scale=1.0).float()
    lifted = lift(model, kind, **OPTIONS[kind])
    new = {name for name, _ in lifted.named_parameters()} - {name for name, _ in model.named_parameters()}
    assert bool(new) == (kind != "sliding")
    losses, reached = train(lifted)
    assert losses[-1] < losses[0] and new <= reached


def test_new_learned_positions_train():
    lifted = lift(MODELS["gpt2"](scale=1.0).float(), "longer", max_position_embeddings=130)
    table = lifted.model.positions.embed_positions.weight
    assert torch.equal(table[96:], table[:34]) and len(table) == 130
    losses, _ = train(lifted, length=130)
    assert losses[-1] < losses[0] and table.grad[96:].any()


@pytest.mark.parametrize("kind", [*OPTIONS, "encoder_decoder"])
def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    model = MODELS["trunk" if kind == "encoder_decoder" else "gpt2"]()
    lifted = lift(model, kind, **OPTIONS.get(kind, {"eos_token_id": 2}))
    lifted.save_pretrained(tmp_path)
    loaded = type(lifted).from_pretrained(tmp_path, experts_implementation="eager")
    weights = loaded.state_dict()
    assert weights.keys() == lifted.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in lifted.state_dict().items())
    inputs = {"input_ids": random_ids(1, 7)}
    if kind == "encoder_decoder":
        inputs["decoder_input_ids"] = random_ids(1, 5)
    torch.testing.assert_close(loaded(**inputs).logits, lifted(**inputs).logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [*OPTIONS, "encoder_decoder"])
def test_the_given_model_stays_as_it_is_and_shares_nothing(kind):
    model = MODELS["trunk" if kind == "encoder_decoder" else "gpt2"]().to(torch.bfloat16).train()
    config, weights = copy.deepcopy(model.config.to_dict()), copy.deepcopy(model.state_dict())
    lifted = lift(model, kind, **OPTIONS.get(kind, {"eos_token_id": 2}))
    assert lifted.training and model.training and {p.dtype for p in lifted.parameters()} == {torch.bfloat16}
    for parameter in lifted.parameters():
        parameter.data.fill_(7.0)
    assert model.config.to_dict() == config
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_settings_come_along():
    model = MODELS["decoder"](attn="eager", experts="batched_mm")
    model.generation_config = GenerationConfig(temperature=0.5, do_sample=True, pad_token_id=0)
    model.model.embed_tokens.weight.requires_grad_(False)
    lifted = lift(model, "sparse", num_experts=3)
    assert lifted.generation_config.temperature == 0.5 and lifted.generation_config is not model.generation_config
    assert not lifted.lm_head.weight.requires_grad and lifted.model.norm.weight.requires_grad
    assert (lifted.config._attn_implementation, lifted.config._experts_implementation) == ("eager", "batched_mm")
    assert "layers.*.mlp.experts" in lifted.config.base_model_tp_plan
    assert not any("mlp.up_proj" in name for name in lifted.config.base_model_tp_plan)
    assert lift(tiny_model(TrineModel, **PLAIN), "sliding").pooler is None


def test_lifts_follow_each_other():
    model = MODELS["decoder"]()
    lifted = lift(model, "simplicial", layers=[1], simplicial_window=96)
    lifted = lift(lifted, "sparse", num_experts=3, layers=[0])
    lifted = lift(lifted, "deeper", num_hidden_layers=4)
    assert lifted.config.attention_types == ["full", "full", "simplicial", "simplicial"]
    assert lifted.config.mlp_layer_types == ["sparse", "sparse", "dense", "dense"]
    lifted = lift(lifted, "simplicial", layers=[1], simplicial_window=96)  # beside those that are there
    assert largest_change(model, lifted, length=48) <= 1e-12


def test_chosen_layers_and_stacks_alone_change():
    lifted = lift(tiny_translator(), "simplicial", stack="encoder", layers=[1])
    assert lifted.config.encoder.attention_types == ["full", "simplicial"]
    assert lifted.config.decoder.attention_types == ["full", "full"]


def test_a_sliding_layer_keeps_its_function_at_any_length_with_windows_that_reach_as_far():
    for fields, window in (({"is_causal": True}, 8), ({"is_causal": False}, 17)):
        model = tiny_model(attention_types="sliding, full", pad_token_id=0, **fields)
        options = {"layers": [0], "simplicial_window": window}
        lifted = lift(model, "simplicial", **options)
        assert exact_length(model, lifted, make_lift("simplicial", options)) is None
        assert largest_change(model, lifted, length=40) <= 1e-12


def test_the_router_noise_is_its_standard_deviation():
    gate = lift(MODELS["decoder"](), "sparse", num_experts=200, router_noise=3.0).model.layers[0].mlp.gate.weight
    assert 2.9 < gate.std() < 3.1


def test_layers_take_their_rotary_waves_along():
    waves = {"full_attention": {"rope_type": "default", "rope_theta": 100.0}}
    waves["sliding_attention"] = {"rope_type": "default", "rope_theta": 1e4}
    model = tiny_model(attention_types="sliding, full", rope_parameters=waves, is_causal=False, pad_token_id=0)
    lifted = lift(model, "simplicial", layers=[0], simplicial_window=17)
    assert lifted.config.rope_parameters["simplicial_attention"] == waves["sliding_attention"]
    assert largest_change(model, lifted, length=30) <= 1e-12
    longer = lift(model, "longer", max_position_embeddings=200, rope_type="yarn").config.rope_parameters
    assert longer["full_attention"]["rope_type"] == "yarn" and longer["sliding_attention"]["rope_type"] == "default"
    with pytest.raises(ValueError, match="are not those of the other layers that are to be 'sliding_attention'"):
        lift(model, "sliding")


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> dict:
    """A model of the library with random biases and norms, and Trine's of it, by family."""
    folder, pairs = tmp_path_factory.mktemp("converted"), {}
    classes = {"bert": (BertForMaskedLM, BertConfig(**ENCODER), TrineForMaskedLM)}
    classes["llama"] = (
        LlamaForCausalLM,
        LlamaConfig(**ENCODER, num_key_value_heads=2, pad_token_id=0),
        TrineForCausalLM,
    )
    for name, (library_class, config, trine_class) in classes.items():
        torch.manual_seed(0)
        library = library_class(config).eval()
        for parameter in library.parameters():
            nn.init.normal_(parameter, std=0.2)
        library.save_pretrained(folder / name)
        convert(folder / name, folder / f"{name}-trine")
        pairs[name] = library, trine_class.from_pretrained(folder / f"{name}-trine")
    return pairs


@pytest.mark.parametrize(
    ("family", "kind", "options"),
    [
        ("bert", "simplicial", {"attention_dropout": 0.0, "simplicial_form": "hadamard", "layers": [1]}),
        ("bert", "simplicial", {"attention_dropout": 0.0}),
        ("bert", "sliding", {"sliding_window": 20}),
        ("bert", "sparse", {"num_experts": 4, "num_experts_per_tok": 4}),
        ("bert", "sparse", {"num_experts": 4, "router_type": "sigmoid"}),
        ("bert", "longer", {"max_position_embeddings": 100}),
        ("llama", "simplicial", {"simplicial_window": 20}),
        ("llama", "sparse", {"num_experts": 4, "num_experts_per_tok": 1}),
        ("llama", "deeper", {"num_hidden_layers": 7}),
        ("llama", "longer", {"max_position_embeddings": 100}),
    ],
)
def test_lifts_of_converted_models_equal_the_librarys(converted, family, kind, options):
    library, model = converted[family]
    lifted = lift(model, kind, **options)
    assert lifted.config != model.config
    ids = random_ids(2, 20)
    torch.testing.assert_close(lifted(ids).logits, library(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rope_type", ["dynamic", "linear", "yarn", "llama3"])
def test_scaled_waves_are_the_librarys(converted, rope_type):
    library, model = converted["llama"]
    lifted = lift(model, "longer", max_position_embeddings=80, rope_type=rope_type)
    waves = {"rope_type": rope_type, "rope_theta": 10000.0, "factor": 2.0}
    if rope_type in ("yarn", "llama3"):
        waves["original_max_position_embeddings"] = 40
    if rope_type == "llama3":
        waves |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = copy.deepcopy(library.config)
    config.rope_parameters, config.max_position_embeddings = waves, 40 if rope_type == "dynamic" else 80
    scaled = LlamaForCausalLM(config).eval()
    scaled.load_state_dict(library.state_dict())
    ids = random_ids(1, 70)
    torch.testing.assert_close(lifted(ids).logits, scaled(ids).logits, rtol=0, atol=2e-5)
    exact = exact_length(model, lifted, make_lift("longer", {"rope_type": rope_type}))
    assert exact == (40 if rope_type == "dynamic" else 0) and largest_change(model, lifted, length=70) > 1e-3


def test_experts_with_biases_are_dealt_out_whole():
    """Tensor parallelism would add the bias of a split projection more than once."""
    lifted = lift(tiny_model(TrineModel, **PLAIN), "sparse", num_experts=4)
    names = {name.replace(".0.", ".*.") for name in [*lifted.state_dict(), *dict(lifted.named_modules())]}
    assert not any("experts" in name for name in lifted.config.base_model_tp_plan)
    plan = lifted.config.base_model_ep_plan
    assert set(plan) <= names
    stacked = {name for name in names if ".mlp.experts." in name and "act_fn" not in name and ".1." not in name}
    assert stacked == set(plan) - {"layers.*.mlp.experts"}
