"""`from_pretrained(folder, field=value)` gives the config that the constructor would, for every family and class."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support import forks
from support.tiny import SIZES, random_ids, tiny_config, tiny_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineRecurrentConfig,
    TrineRecurrentForConditionalGeneration,
    TrineSeq2SeqConfig,
    TrineSeq2SeqForSequenceClassification,
)


KINDS = ["sliding", "chunked", "full", "full"]
STACK = {**SIZES, "num_hidden_layers": 4, "attention_types": KINDS, "mlp_layer_types": "dense, sparse"}
NO_CODE = {"export_code": False}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    tiny_model(dtype=torch.float32, num_hidden_layers=4, attention_types=KINDS, **NO_CODE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    config = TrineSeq2SeqConfig(encoder=STACK, decoder=STACK, pad_token_id=0, bos_token_id=1, **NO_CODE)
    TrineForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("auto_class", [AutoModelForCausalLM, AutoModel, TrineForCausalLM])
def test_fewer_layers_are_the_first_of_the_checkpoint(auto_class, decoder):
    model, info = auto_class.from_pretrained(decoder, num_hidden_layers=2, output_loading_info=True)
    assert model.config.attention_types == ["sliding", "chunked"] and model.config.mlp_layer_types == ["dense"] * 2
    assert not info["missing_keys"]
    trunk = getattr(model, "model", model)
    whole = TrineForCausalLM.from_pretrained(decoder)
    states = whole(random_ids(1, 7), output_hidden_states=True).hidden_states[2]
    actual = trunk(random_ids(1, 7), output_hidden_states=True).hidden_states[2]
    assert len(trunk.layers) == 2
    torch.testing.assert_close(actual, trunk.norm(states) if actual is not states else states, rtol=1e-5, atol=1e-5)


def test_patterns_are_read(decoder):
    model = AutoModelForCausalLM.from_pretrained(decoder, attention_types="sliding, full")
    assert model.config.attention_types == ["sliding", "full"] * 2
    config = AutoConfig.from_pretrained(decoder, num_hidden_layers=3, attention_types="linear*2, full")
    assert config.attention_types == ["linear", "linear", "full"] and config.mlp_layer_types == ["dense"] * 3


def test_a_pattern_in_the_file_is_read_for_the_new_number_of_layers(tmp_path):
    fields = {"model_type": "trine", **SIZES, "num_hidden_layers": 4, "attention_types": "sliding, full"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    config = AutoConfig.from_pretrained(tmp_path, num_hidden_layers=7)
    assert config.attention_types == ["sliding", "full"] * 3 + ["sliding"]


def test_more_layers_than_were_saved_need_their_kinds(decoder):
    message = "num_hidden_layers=5 is more than the 4 entries of attention_types that were saved. Give attention_types"
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(decoder, num_hidden_layers=5)
    wider = AutoConfig.from_pretrained(decoder, num_hidden_layers=5, attention_types="full", mlp_layer_types="dense")
    assert wider.attention_types == ["full"] * 5


def test_what_was_derived_when_it_was_saved_stays(decoder):
    saved = TrineConfig.from_pretrained(decoder)
    config = TrineConfig.from_pretrained(decoder, hidden_size=64, mlp_layer_types="sparse", num_local_experts=3)
    assert (config.hidden_size, config.num_experts) == (64, 3)
    kept = ("head_dim", "intermediate_size", "moe_intermediate_size", "lsh_num_buckets")
    assert [getattr(config, name) for name in kept] == [getattr(saved, name) for name in kept]


def test_what_was_derived_in_both_stacks_stays(tmp_path):
    stack = {"hidden_size": 64}
    TrineSeq2SeqConfig(encoder=stack, decoder=stack, **NO_CODE).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, hidden_size=128)
    assert (config.encoder.head_dim, config.decoder.head_dim, config.decoder.intermediate_size) == (8, 8, 192)


def test_a_dense_checkpoint_with_experts_balances_them(decoder):
    config = AutoConfig.from_pretrained(decoder, mlp_layer_types="sparse")
    assert (config.num_experts, config.router_aux_loss_coef) == (8, 0.01)
    assert (
        AutoConfig.from_pretrained(decoder, mlp_layer_types="sparse", router_aux_loss_coef=0).router_aux_loss_coef == 0
    )


def test_what_the_rules_refuse_is_refused(decoder):
    for fields in ({"attention_types": "ful"}, {"is_encoder_decoder": True}, {"sliding_window": 0}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            AutoModelForCausalLM.from_pretrained(decoder, **fields)


def test_the_plan_follows_the_override(decoder):
    saved = TrineConfig.from_pretrained(decoder)
    config = TrineConfig.from_pretrained(decoder, mlp_layer_types="sparse")
    assert (
        config.base_model_tp_plan == TrineConfig(**{**saved.to_dict(), "mlp_layer_types": "sparse"}).base_model_tp_plan
    )
    assert config.base_model_tp_plan != saved.base_model_tp_plan


def test_unused_keywords_are_given_back(decoder):
    config, unused = AutoConfig.from_pretrained(
        decoder, num_hidden_layers=2, hidden_size=64, colour=1, return_unused_kwargs=True
    )
    assert unused == {"colour": 1} and (config.num_hidden_layers, config.hidden_size) == (2, 64)


def test_fields_of_a_stack_change_both_stacks(pair):
    model = AutoModelForSeq2SeqLM.from_pretrained(pair, num_hidden_layers=2)
    for stack, config in ((model.model.encoder, model.config.encoder), (model.model.decoder, model.config.decoder)):
        assert len(stack.layers) == 2 and config.attention_types == KINDS[:2]
        assert config.mlp_layer_types == ["dense", "sparse"]
    assert model.config.decoder.is_causal and not model.config.encoder.is_causal


def test_fields_of_one_stack_change_it_alone(pair):
    config = AutoConfig.from_pretrained(pair, encoder={"num_hidden_layers": 1}, decoder={"attention_types": "full"})
    assert config.encoder.attention_types == ["sliding"] and config.decoder.attention_types == ["full"] * 4
    assert config.decoder.cross_attention_hidden_size == 32 and config.pad_token_id == 0
    replaced = AutoConfig.from_pretrained(pair, encoder=TrineConfig(**SIZES))
    assert replaced.encoder.attention_types == ["full"] * 2 and not replaced.encoder.is_causal


def test_what_the_whole_and_its_stacks_have_changes_everywhere(pair):
    config = AutoConfig.from_pretrained(pair, pad_token_id=5, vocab_size=40)
    for part in (config, config.encoder, config.decoder):
        assert (part.pad_token_id, part.vocab_size) == (5, 40)


@pytest.mark.parametrize("stack", [None, {}, {"hidden_size": 64}])
def test_a_vocabulary_at_the_top_is_that_of_the_sides_which_name_none(stack):
    config = TrineSeq2SeqConfig(encoder=stack, decoder=stack, vocab_size=40)
    assert [part.vocab_size for part in (config, config.encoder, config.decoder)] == [40, 40, 40]
    config = TrineSeq2SeqConfig(encoder={"vocab_size": 50}, decoder=stack, vocab_size=40, share_embeddings=False)
    again = TrineSeq2SeqConfig.from_dict(json.loads(config.to_json_string()))
    assert [part.vocab_size for part in (again, again.encoder, again.decoder)] == [40, 50, 40]
    with pytest.raises(ValueError, match="vocab_size=40 is the decoder's, but decoder.vocab_size=50"):
        TrineSeq2SeqConfig(encoder=stack, decoder={"vocab_size": 50}, vocab_size=40)


GIVEN = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}


@pytest.mark.parametrize("shared", [True, False])
def test_the_vocabulary_of_the_decoder_is_that_of_the_model(shared):
    config = TrineSeq2SeqConfig(encoder=STACK, decoder=STACK, share_embeddings=shared)
    config = TrineSeq2SeqConfig.from_dict(config.to_dict(), decoder={"vocab_size": 20})
    sizes = config.vocab_size, config.decoder.vocab_size, config.encoder.vocab_size
    assert sizes == (20, 20, 20 if shared else STACK["vocab_size"])


def test_a_note_in_the_file_of_a_stack_is_kept_in_the_stack(tmp_path):
    TrineSeq2SeqConfig(encoder=SIZES, decoder=SIZES, export_code=False).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    fields["decoder"]["forced_eos_token_id"] = None
    path.write_text(json.dumps(fields))
    for loaded in (TrineSeq2SeqConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path, vocab_size=70)):
        assert loaded.decoder.forced_eos_token_id is None and not hasattr(loaded.encoder, "forced_eos_token_id")
        loaded.save_pretrained(tmp_path / "again")
        assert "forced_eos_token_id" in json.loads((tmp_path / "again" / "config.json").read_text())["decoder"]
    assert loaded.decoder.vocab_size == loaded.encoder.vocab_size == 70


def test_the_special_tokens_that_are_given_are_taken(tmp_path):
    """The preset has others: padding 0 and end 1."""
    config = TrineSeq2SeqConfig.from_preset("tiny", **GIVEN, **NO_CODE)
    assert {name: getattr(config, name) for name in GIVEN} == GIVEN
    for stack in (config.encoder, config.decoder):
        assert (stack.pad_token_id, stack.bos_token_id, stack.eos_token_id) == (1, 0, 2)
    recurrent = TrineRecurrentConfig(vocab_size=9, hidden_size=4, **GIVEN, **NO_CODE)
    assert {name: getattr(recurrent, name) for name in GIVEN} == GIVEN
    model = TrineRecurrentForConditionalGeneration(recurrent)
    model.save_pretrained(tmp_path)
    settings = TrineRecurrentForConditionalGeneration.from_pretrained(tmp_path).generation_config
    assert {name: getattr(settings, name) for name in GIVEN} == GIVEN


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, (0, None, 1, 0)), ({"pad_token_id": 3}, (3, None, 1, 3)), ({"bos_token_id": 4}, (0, 4, 1, 4))],
)
@pytest.mark.parametrize("preset", ["tiny", "t5-like"])
def test_a_preset_begins_with_the_first_token_or_with_padding(preset, given, expected):
    config = TrineSeq2SeqConfig.from_preset(preset, **given)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id, config.decoder_start_token_id) == expected


@pytest.mark.parametrize("more", [{}, {"vocab_size": 77}], ids=["alone", "beside a field of the stacks"])
@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"num_labels": 5}, ("num_labels", 5)),
        ({"id2label": {0: "a", 1: "b", 2: "c"}}, ("num_labels", 3)),
        ({"problem_type": "regression"}, ("problem_type", "regression")),
        ({"output_attentions": True, "attn_implementation": "eager"}, ("output_attentions", True)),
        ({"output_hidden_states": True}, ("output_hidden_states", True)),
        ({"attn_implementation": "eager"}, ("_attn_implementation", "eager")),
        ({"experts_implementation": "eager"}, ("_experts_implementation", "eager")),
        ({"torch_dtype": "bfloat16"}, ("dtype", torch.bfloat16)),
        ({"name_or_path": "here"}, ("_name_or_path", "here")),
        ({"task_specific_params": {"a": 1}}, ("task_specific_params", {"a": 1})),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_preset_takes_what_transformers_gives_every_config(given, found, more):
    name, value = found
    stack = {"hidden_size": 16, "num_attention_heads": 2}
    by_hand = TrineSeq2SeqConfig(encoder=stack, decoder=stack, vocab_size=77, **given, **NO_CODE)
    for config in (TrineSeq2SeqConfig.from_preset("tiny", **given, **more, **NO_CODE), by_hand):
        assert getattr(config, name) == value


def test_rotary_keywords_of_a_preset_go_to_both_stacks():
    config = TrineSeq2SeqConfig.from_preset("tiny", rope_theta=5.0, **NO_CODE)
    thetas = [stack.rope_parameters["rope_theta"] for stack in (config.encoder, config.decoder)]
    assert thetas == [5.0, 5.0]


def test_a_classifier_of_a_preset_has_the_labels_that_were_asked_for():
    config = TrineSeq2SeqConfig.from_preset("tiny", num_labels=5, **NO_CODE)
    model = TrineSeq2SeqForSequenceClassification(config).eval()
    assert model(input_ids=torch.tensor([[5, 6, 1]])).logits.shape == (1, 5)


def test_a_smaller_lstm(tmp_path):
    config = TrineRecurrentConfig(vocab_size=9, hidden_size=4, num_hidden_layers=3, pad_token_id=0, **NO_CODE)
    TrineRecurrentForConditionalGeneration(config).save_pretrained(tmp_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, num_hidden_layers=1, pad_token_id=3)
    assert len(model.model.encoder.layers) == 1 and model.config.pad_token_id == 3


STRANGER = """
import sys
sys.modules["trine"] = None
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True, attention_types="full")
assert config.attention_types == ["full"] * 4 and type(config).__module__.startswith("transformers_modules.")
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, num_hidden_layers=2)
ids = load_file(folder + "/ids.safetensors")["ids"]
save_file({"logits": model(ids).logits.detach()}, folder + "/logits.safetensors")
"""


@pytest.mark.slow
def test_overrides_without_the_package(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    tiny_model(dtype=torch.float32, num_hidden_layers=4, attention_types=KINDS).save_pretrained(tmp_path)
    ids = random_ids(1, 7)
    save_file({"ids": ids}, tmp_path / "ids.safetensors")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    result = forks.run(["-c", STRANGER, str(tmp_path)], tmp_path)
    assert result.returncode == 0, result.stderr
    expected = TrineForCausalLM.from_pretrained(tmp_path, num_hidden_layers=2)(ids).logits
    torch.testing.assert_close(load_file(tmp_path / "logits.safetensors")["logits"], expected, rtol=1e-5, atol=1e-5)


def test_a_config_is_read_with_the_dtype_of_the_weights(tmp_path):
    """As `transformers serve` does, whose `--dtype` is auto by default."""
    tiny_config().save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path, dtype="auto").hidden_size == tiny_config().hidden_size
    with pytest.raises(ValueError, match="dtype='automatic' is not one of"):
        AutoConfig.from_pretrained(tmp_path, dtype="automatic")
