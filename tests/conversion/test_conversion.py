"""Converted checkpoints compute what their sources compute, with every backend, and come back bit for bit."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.conversion_sources import LLAMA3, SOURCES, edit_config, outputs, random_source, weights_of
from transformers import AutoConfig

from trine import TrineConfig, convert
from trine.conversion import equivalence
from trine.conversion.config_rules import differences
from trine.conversion.families.table import FAMILIES
from trine.conversion.plan import CLASSES


# All heads of these are tested, and of the others, which share their code, the one for language.
ALL_HEADS = ("bert", "roberta", "modernbert", "gpt2", "llama", "t5", "bart")
LANGUAGE = ("CausalLM", "LMHeadModel", "MaskedLM", "ConditionalGeneration")
CASES = [
    (name, head.source)
    for name, (family, _) in SOURCES.items()
    for head in FAMILIES[family].heads
    if name in ALL_HEADS or head.source.endswith(LANGUAGE)
] + [("modernbert_biases", "ModernBertForSequenceClassification")]
# What another config says in other words, and fields that nothing reads.
OTHER_WORDS = {
    *("_name_or_path", "n_inner", "head_dim", "classifier_dropout", "max_window_layers", "mlp_only_layers"),
    *("decoder_sparse_step", "is_encoder_decoder", "router_aux_loss_coef"),
}


@dataclass
class Conversion:
    """A source, what became of it, and their folders."""

    source: Any
    ours: Any
    folder: Path
    ours_folder: Path

    def inputs(self) -> dict[str, torch.Tensor]:
        return equivalence.random_inputs(self.source.config, type(self.source).__name__)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A function that converts a source of a class, once."""
    made: dict[tuple[str, str], Conversion] = {}

    def make(name: str, class_name: str) -> Conversion:
        if (name, class_name) not in made:
            folder = tmp_path_factory.mktemp("conversion")
            source = random_source(name, class_name)
            source.save_pretrained(folder / "source")
            convert(folder / "source", folder / "ours")
            head = FAMILIES[SOURCES[name][0]].choose_head(class_name)
            ours = CLASSES[head.trine].from_pretrained(folder / "ours").eval()
            made[name, class_name] = Conversion(source, ours, folder / "source", folder / "ours")
        return made[name, class_name]

    return make


def language_class(name: str) -> str:
    heads = FAMILIES[SOURCES[name][0]].heads
    return next(head.source for head in heads if head.source.endswith(LANGUAGE))


def assert_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], hint: str = "") -> None:
    """The same values, within 1e-5 of the largest, or of 1 where all are smaller."""
    assert actual.keys() & expected.keys() & {*equivalence.TOKEN_OUTPUTS, *equivalence.SEQUENCE_OUTPUTS}
    for key in actual:
        bound = 1e-5 * max(1.0, expected[key].abs().max().item())
        torch.testing.assert_close(
            actual[key], expected[key], rtol=0, atol=bound, msg=lambda text, key=key: f"{hint} {key}: {text}"
        )


@pytest.mark.parametrize(("name", "class_name"), CASES)
def test_outputs_are_equal_and_the_way_back_is_exact(converted, tmp_path, name, class_name):
    family, conversion = SOURCES[name][0], converted(name, class_name)
    inputs = conversion.inputs()
    assert (inputs["attention_mask"] == 0).any()
    expected, actual = outputs(conversion.source, inputs), outputs(conversion.ours, inputs)
    if "decoder_input_ids" not in inputs:
        assert expected.keys() == actual.keys()
    assert_equal(actual, expected)

    convert(conversion.ours_folder, tmp_path / "again", to=family)
    first, second = weights_of(conversion.folder), weights_of(tmp_path / "again")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    configs = [AutoConfig.from_pretrained(folder).to_dict() for folder in (conversion.folder, tmp_path / "again")]
    if class_name == "T5EncoderModel":  # of the decoder nothing is left
        configs = [{key: config[key] for key in config if key in ("d_model", "num_layers")} for config in configs]
    differing = {key for key in {*configs[0], *configs[1]} if configs[0].get(key) != configs[1].get(key)}
    assert differing <= OTHER_WORDS
    if differing - {"_name_or_path"}:  # the other words mean the same
        again = getattr(transformers, class_name).from_pretrained(tmp_path / "again").eval()
        repeated = outputs(again, inputs)
        assert all(torch.equal(repeated[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("name", "class_name", "is_balanced"),
    [
        ("mixtral_balanced", "MixtralForCausalLM", True),  # its config returns router logits, and so adds their loss
        ("qwen3_moe", "Qwen3MoeForCausalLM", False),  # its config has a coefficient, but does not
    ],
)
def test_experts_train_with_the_loss_of_their_source(converted, tmp_path, caplog, name, class_name, is_balanced):
    caplog.set_level("WARNING")
    conversion = converted(name, class_name)
    ids = conversion.inputs()["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    convert(conversion.ours_folder, tmp_path / "again", to=SOURCES[name][0])
    again = getattr(transformers, class_name).from_pretrained(tmp_path / "again")
    ours = CLASSES["TrineForCausalLM"].from_pretrained(conversion.ours_folder)
    source = getattr(transformers, class_name).from_pretrained(conversion.folder)
    expected, *losses = (model.train()(**batch).loss for model in (source, ours, again))
    for loss in losses:
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    balancing = ours(**batch, output_router_logits=True).aux_loss
    assert balancing > 2 and ours.config.router_aux_loss_coef == (0.3 if is_balanced else 0.0)


def test_what_a_conversion_changes_in_the_loss_of_experts_is_said(tmp_path, caplog):
    random_source("qwen3_moe", "Qwen3MoeForCausalLM").save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "ours")
    said = "output_router_logits=False of model_type='qwen3_moe' trains without a load-balancing loss"
    assert said in caplog.text
    fields = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = CLASSES["TrineForCausalLM"](TrineConfig(**fields, intermediate_size=24, mlp_layer_types="sparse"))
    model.save_pretrained(tmp_path / "made")
    convert(tmp_path / "made", tmp_path / "theirs", to="mixtral")
    assert "router_aux_loss_reduction='mean' has no counterpart" in caplog.text
    config = AutoConfig.from_pretrained(tmp_path / "theirs")
    assert config.output_router_logits and config.router_aux_loss_coef == 0.01


# The library refuses flex attention for GPT-2, and reads beyond the position biases of T5 in a batch of several texts.
THEIRS_WITHOUT_FLEX = ("gpt2", "t5")


@pytest.mark.parametrize("name", SOURCES)
def test_outputs_are_equal_with_every_backend(converted, name):
    """Every backend on one side with every one on the other. Flex attention is not compiled, which takes minutes."""
    conversion, found = converted(name, language_class(name)), {}
    for side, model in (("theirs", conversion.source), ("ours", conversion.ours)):
        found[side] = {}
        for backend in ("eager", "sdpa", "flex_attention"):
            if (side, backend) == ("theirs", "flex_attention") and SOURCES[name][0] in THEIRS_WITHOUT_FLEX:
                continue
            model.set_attn_implementation(backend)
            with torch.compiler.set_stance("force_eager"):
                found[side][backend] = outputs(model, conversion.inputs())
        model.set_attn_implementation("sdpa")
    for backend, actual in found["ours"].items():
        for other, expected in found["theirs"].items():
            assert_equal(actual, expected, f"{backend} and {other}")


@pytest.mark.parametrize(
    ("name", "class_name"), [("roberta", "RobertaForMaskedLM"), ("gpt2", "GPT2LMHeadModel"), ("bart", "BartModel")]
)
def test_outputs_are_equal_in_double_precision(converted, name, class_name):
    """Where the order of sums shows no more; of families whose norms do not go through float32, as those of T5 do."""
    conversion = converted(name, class_name)
    inputs, options = conversion.inputs(), {"dtype": torch.float64}
    expected = outputs(type(conversion.source).from_pretrained(conversion.folder, **options).eval(), inputs)
    for attn in ("eager", "sdpa"):
        ours = type(conversion.ours).from_pretrained(conversion.ours_folder, attn_implementation=attn, **options)
        for key, value in outputs(ours.eval(), inputs).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-9)


# One of each way to keep positions and windows in a cache; beams reorder it.
@pytest.mark.parametrize(
    ("name", "beams"),
    [
        *((name, 1) for name in ("gpt2", "llama_scaled", "mistral", "qwen3", "mixtral", "qwen3_moe", "t5_v1_1")),
        *((name, 3) for name in ("mistral", "t5", "bart")),
        ("bart", 1),
    ],
)
def test_generated_tokens_are_equal(converted, name, beams):
    """With padding on the left for decoders, where the library counts positions as we do."""
    conversion = converted(name, language_class(name))
    inputs = {key: conversion.inputs()[key][:, :10] for key in ("input_ids", "attention_mask")}
    inputs["attention_mask"][1, :4] = 0
    inputs["input_ids"][1, :4] = 0
    options = {"max_new_tokens": 12, "num_beams": beams, "do_sample": False}
    expected, actual = (model.generate(**inputs, **options) for model in (conversion.source, conversion.ours))
    assert torch.equal(actual, expected)
    start = getattr(conversion.source.config, "decoder_start_token_id", None)
    assert start is None or (actual[:, 0] == start).all()


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_decoder_without_settings_of_generation_begins_with_the_token_of_its_config(
    converted, tmp_path, name
):
    conversion = converted(name, language_class(name))
    conversion.source.save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "generation_config.json").unlink()
    edit_config(tmp_path / "source", decoder_start_token_id=7)
    convert(tmp_path / "source", tmp_path / "ours")
    ours = type(conversion.ours).from_pretrained(tmp_path / "ours").eval()
    theirs = type(conversion.source).from_pretrained(tmp_path / "source").eval()
    inputs = {key: conversion.inputs()[key] for key in ("input_ids", "attention_mask")}
    actual, expected = (model.generate(**inputs, max_new_tokens=6, do_sample=False) for model in (ours, theirs))
    assert torch.equal(actual, expected) and (actual[:, 0] == 7).all()


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        ("bert-base", transformers.BertConfig()),
        ("gpt2", transformers.GPT2Config()),
        ("modernbert-like", transformers.ModernBertConfig(classifier_pooling="mean")),
    ],
)
def test_presets_are_the_configs_of_their_families(preset, config):
    family = FAMILIES[config.model_type]
    head = family.choose_head("TrineForSequenceClassification", side="trine")
    theirs = TrineConfig(**family.read_config(config, head, ["pooler.dense.weight"]))
    assert list(differences(TrineConfig.from_preset(preset), theirs, head.trine)) == []


# Fields of published checkpoints, with the leftovers of their time, and what they become.
PUBLISHED = {
    "bert-base-chinese": (
        {"model_type": "bert", "directionality": "bidi", "pooler_type": "first_token_transform", "output_past": True},
        {"norm_position": "post", "max_position_embeddings": 512, "norm_eps": 1e-12},
    ),
    "gpt2": (
        {"model_type": "gpt2", "n_ctx": 1024, "task_specific_params": {"text-generation": {"do_sample": True}}},
        {"intermediate_size": 3072, "max_position_embeddings": 1024, "hidden_act": "gelu_new"},
    ),
    "llama-3.2": (
        {
            "model_type": "llama",
            "rope_scaling": {key: value for key, value in LLAMA3.items() if key != "rope_theta"},
            "rope_theta": 10000.0,
            "torch_dtype": "bfloat16",
            "pretraining_tp": 1,
        },
        {"rope_parameters": LLAMA3, "head_dim": 128},
    ),
    "modernbert-base": (
        {
            "model_type": "modernbert",
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
            "layer_norm_eps": 1e-5,
            "position_embedding_type": "absolute",
            "repad_logits_with_grad": False,
            "reference_compile": None,
            "classifier_pooling": "mean",
            "num_hidden_layers": 4,
        },
        {
            "attention_types": ["full", "sliding", "sliding", "full"],
            "sliding_window": 64,
            "norm_bias": False,
            "rope_parameters": {
                "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            },
        },
    ),
    "bart-base": (
        {"model_type": "bart", "activation_dropout": 0.1, "classif_dropout": 0.1, "early_stopping": True},
        {"decoder_start_token_id": 2, "share_embeddings": True},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_configs_of_published_checkpoints_are_read(tmp_path, name, caplog):
    fields, expected = PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    config = AutoConfig.from_pretrained(tmp_path)
    family = FAMILIES[config.model_type]
    head = next(head for head in family.heads if not head.is_base)
    transformers.logging.get_logger("trine").propagate = True
    with caplog.at_level("WARNING"):
        ours = CLASSES[head.trine].config_class(**family.read_config(config, head, []))
    assert {key: getattr(ours, key) for key in expected} == expected
    dropped = [record.message for record in caplog.records if "acts in training only" in record.message]
    assert len(dropped) == ("activation_dropout" in fields)
