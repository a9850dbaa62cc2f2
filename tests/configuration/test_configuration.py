"""Configs derive, validate, expand, and survive JSON."""

import dataclasses
import importlib
import inspect
import json
import logging

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto import modeling_auto

from trine import TrineConfig, TrineForCausalLM, TrineModel, register
from trine.configuration.model_card import describe_runs
from trine.configuration.patterns import expand_pattern
from trine.configuration.presets import PRESETS


OWN_FIELDS = [name for name in TrineConfig.__annotations__ if not name.startswith("_")]
VALUES = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "attention_types": ["sliding", "full", "chunked"],
    "mlp_layer_types": ["dense", "sparse", "dense"],
    "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
    "norm_type": "layernorm",
    "is_causal": False,
    "router_type": "sigmoid",
    "eos_token_id": [2, 3],
    "loss_chunk_size": None,
    "export_code": False,
}


def test_defaults_are_silent_and_complete(caplog):
    with caplog.at_level(logging.WARNING):
        config = TrineConfig()
    assert not caplog.records
    assert config.attention_types == ["full"] * 8 and config.mlp_layer_types == ["dense"] * 8
    assert (config.num_key_value_heads, config.head_dim, config.tie_word_embeddings) == (8, 64, True)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}


def test_a_dense_model_does_not_look_like_experts():
    """Trainers and servers tell by these fields; TRL asks for router logits where the coefficient is not 0."""
    first_version = {"num_experts": 8, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.01}  # which saved them
    for fields in ({}, {"router_aux_loss_coef": 0.3}, first_version):
        config = TrineConfig(**fields)
        assert (config.num_experts, config.num_local_experts, config.num_experts_per_tok) == (None, None, None)
        assert config.router_aux_loss_coef == 0 and not config.output_router_logits
    config = TrineConfig(mlp_layer_types="dense, sparse")
    assert (config.num_experts, config.num_experts_per_tok, config.router_aux_loss_coef) == (8, 2, 0.01)


@pytest.mark.parametrize(
    ("fields", "width"),
    [({}, 1408), ({"gated_mlp": False}, 2048), ({"hidden_size": 768}, 2048), ({"hidden_size": 64}, 192)],
)
def test_the_inner_width_is_derived(fields, width):
    """8/3 of the hidden size rounded up to a multiple of 64, or 4 times it."""
    config = TrineConfig(**fields)
    assert config.intermediate_size == config.moe_intermediate_size == width


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("full", ["full"] * 5),
        ("sliding, full", ["sliding", "full", "sliding", "full", "sliding"]),
        ("sliding*3, full", ["sliding", "sliding", "sliding", "full", "sliding"]),
        (" sliding * 2 ,full*2", ["sliding", "sliding", "full", "full", "sliding"]),
        ("full*9", ["full"] * 5),
        (["full", "sliding", "full", "full", "full"], ["full", "sliding", "full", "full", "full"]),
    ],
)
def test_patterns_expand(value, expected):
    assert expand_pattern("field", value, 5, ["full", "sliding"]) == expected
    assert TrineConfig(num_hidden_layers=5, attention_types=value).attention_types == expected


def test_layer_types_are_the_librarys_names_and_never_saved():
    config = TrineConfig(num_hidden_layers=3, attention_types="full, sliding, chunked")
    assert config.layer_types == ["full_attention", "sliding_attention", "chunked_attention"]
    assert "layer_types" not in json.loads(config.to_json_string(use_diff=False))


def test_layer_types_of_the_first_layers_take_them():
    """As PEFT's SHADOW makes a small copy: with fewer layers, and their types."""
    config = TrineConfig(num_hidden_layers=3, attention_types="full, sliding, chunked", mlp_layer_types="dense")
    config.num_hidden_layers = 2
    config.layer_types = ["full_attention", "sliding_attention"]
    config.check()
    assert (config.attention_types, config.mlp_layer_types) == (["full", "sliding"], ["dense", "dense"])


def test_the_window_is_a_number_exactly_where_a_layer_slides():
    """As Qwen2's: whoever reads a number takes the model for one with windows."""
    assert TrineConfig().sliding_window is None
    assert TrineConfig(sliding_window=7).sliding_window is None
    assert TrineConfig(attention_types="full, sliding").sliding_window == 256
    assert TrineConfig(attention_types="full, sliding", sliding_window=7).sliding_window == 7


def test_fewer_layers_have_fewer_types():
    """As they are while `assistant_early_exit` drafts."""
    config = TrineConfig(num_hidden_layers=3, attention_types="full, sliding, chunked")
    config.num_hidden_layers = 2
    assert config.layer_types == ["full_attention", "sliding_attention"]


@pytest.mark.parametrize("use_diff", [True, False])
def test_json_gives_the_config_back(use_diff, tmp_path):
    config = TrineConfig(**VALUES)
    text = config.to_json_string(use_diff=use_diff)
    assert TrineConfig(**json.loads(text)).to_dict() == config.to_dict()
    config.save_pretrained(tmp_path)
    for loaded in (TrineConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is TrineConfig
        for field, value in VALUES.items():
            assert getattr(loaded, field) == value, field


def test_the_base_class_can_read_a_saved_config(tmp_path):
    """`Trainer` does so when it resumes, and `AutoTokenizer` where the model type is unknown."""
    TrineConfig(**VALUES).save_pretrained(tmp_path)
    assert PreTrainedConfig.from_pretrained(tmp_path).attention_types == VALUES["attention_types"]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_build_and_can_be_overridden(preset):
    config = TrineConfig.from_preset(preset)
    assert all(getattr(config, name) == value for name, value in PRESETS[preset].items() if "types" not in name)
    assert TrineConfig.from_preset(preset, vocab_size=60000).vocab_size == 60000


def test_every_field_is_documented_and_every_documented_field_exists():
    documented = [
        line.strip().split(":")[0]
        for line in inspect.getdoc(TrineConfig).split("Args:")[1].split("Raises:")[0].splitlines()
        if line.startswith("    ") and not line.startswith("     ")
    ]
    assert documented == OWN_FIELDS
    assert set(OWN_FIELDS) <= {field.name for field in dataclasses.fields(TrineConfig)}


def test_library_keywords_are_accepted():
    config = TrineConfig(attn_implementation="eager", dtype="bfloat16", num_labels=3, output_hidden_states=True)
    assert config._attn_implementation == "eager" and config.num_labels == 3
    scaled = TrineConfig(rope_theta=5.0, rope_scaling={"rope_type": "linear", "factor": 2.0})
    assert scaled.rope_parameters == {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}
    assert TrineConfig(position_type="learned").rope_parameters is None


def test_registration_can_be_repeated():
    for _ in range(2):
        register()
        assert AutoConfig.for_model("trine").__class__ is TrineConfig
        assert type(AutoModel.from_config(TrineConfig.from_preset("tiny"))) is TrineModel
        assert type(AutoModelForCausalLM.from_config(TrineConfig.from_preset("tiny"))) is TrineForCausalLM
        assert modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["trine"] == "TrineForCausalLM"
        library = importlib.import_module("transformers")  # which may replace itself while it is being imported
        assert library.TrineForCausalLM is TrineForCausalLM and library.TrineModel is TrineModel


@pytest.mark.parametrize(
    "fields", [{}, {"mlp_layer_types": "dense, sparse", "num_shared_experts": 1, "qk_norm": True}]
)
@pytest.mark.parametrize("gated", [True, False])
def test_parallel_plans_name_modules_that_exist(gated, fields):
    config = TrineConfig.from_preset("tiny", gated_mlp=gated, **fields)
    model = TrineModel(config)
    names = {
        ".".join("*" if part.isdigit() else part for part in name.split(".")) for name, _ in model.named_modules()
    }
    names |= {".".join("*" if part.isdigit() else part for part in n.split(".")) for n, _ in model.named_parameters()}
    plans = {**config.base_model_tp_plan, **(config.base_model_ep_plan or {})}
    assert set(plans) <= names
    projections = {name for name in names if name.endswith("_proj") and "*" in name}
    assert projections <= set(config.base_model_tp_plan), "a projection that no process splits"
    assert (config.base_model_ep_plan is not None) == ("sparse" in config.mlp_layer_types)


def test_relative_positions_have_no_tensor_parallel_plan():
    assert TrineConfig(position_type="relative").base_model_tp_plan is None


def test_the_card_counts_runs():
    assert describe_runs(["sliding", "sliding", "full", "sliding"]) == "2 x sliding, full, sliding"
