"""PEFT's methods without targets do on our models what they do on Llama, and the folders load again."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from peft import (
    CPTConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    ShadowConfig,
    TrainableTokensConfig,
    get_peft_model,
)
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from support.tiny import SIZES, SPARSE, random_ids, tiny_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from trine import (
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineRecurrentConfig,
    TrineRecurrentForConditionalGeneration,
    TrineSeq2SeqConfig,
)
from trine.configuration.adapter_targets import target_tables


OPTIONS = {  # what a method needs, or what makes it small enough for a tiny model
    "ADALORA": {"total_step": 10},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 10},
    "MISS": {"r": 2},
    "PSOFT": {"r": 2},
    "P_TUNING": {"num_virtual_tokens": 3, "encoder_hidden_size": 8},
    "PROMPT_TUNING": {"num_virtual_tokens": 3},
    "PREFIX_TUNING": {"num_virtual_tokens": 3},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"token_indices": [3, 4]},
    "VBLORA": {"vector_length": 8, "num_vectors": 8},
    "WAVEFT": {"n_frequency": 10},
}
# Adapters of more than one model, or that read a task with each batch; and those that PEFT writes for named models.
OTHERS = {"ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "POLY", "SHADOW", "XLORA"}
METHODS = sorted(str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING if kind.value not in OTHERS)


def decoder(**fields):
    return tiny_model(dtype=torch.float32, attn="sdpa", scale=1.0, **fields)


def llama():
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    fields = {name: SIZES[name] for name in (*names, "num_key_value_heads")}
    return LlamaForCausalLM(LlamaConfig(**fields))


def encoder_decoder(**fields):
    config = TrineSeq2SeqConfig(encoder=SIZES, decoder=SIZES, decoder_start_token_id=0, pad_token_id=0, **fields)
    return TrineForConditionalGeneration(config)


def t5():
    sizes = {"vocab_size": SIZES["vocab_size"], "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))


def recurrent():
    config = TrineRecurrentConfig(vocab_size=61, hidden_size=16, decoder_start_token_id=0, pad_token_id=0)
    return TrineRecurrentForConditionalGeneration(config)


def step(adapted, **inputs) -> torch.Tensor:
    """One step of training, and the logits after it."""
    adapted.train()(**inputs).loss.backward()
    trained = [parameter for parameter in adapted.parameters() if parameter.grad is not None]
    assert trained and any(parameter.grad.abs().sum() > 0 for parameter in trained)
    torch.optim.SGD(trained, lr=0.1).step()
    return logits_of(adapted, **inputs)


@torch.no_grad()
def logits_of(adapted, labels, **inputs) -> torch.Tensor:
    """Those of evaluation, without labels: some methods add to every loss, and only while they are trained."""
    if adapted.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = labels
    return adapted.eval()(**inputs).logits


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_saves_and_loads_with_its_defaults(method, tmp_path):
    """What PEFT adapts has the names that it adapts in Llama."""
    config_class = {kind.value: value for kind, value in PEFT_TYPE_TO_CONFIG_MAPPING.items()}[method]
    model = decoder()
    fresh, ids = copy.deepcopy(model), random_ids(2, 9)
    settings = {"task_type": "CAUSAL_LM", **OPTIONS.get(method, {})}
    adapted = get_peft_model(model, config_class(**settings))
    if isinstance(adapted.base_model, BaseTuner):
        theirs = get_peft_model(llama(), config_class(**settings))
        ours, theirs = (sorted(one.base_model.targeted_module_names) for one in (adapted, theirs))
        assert ours and ours == [name for name in theirs if name != "model.norm"], "post-norm models have no final one"
    inputs = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    expected = step(adapted, **inputs)
    adapted.save_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(PeftModel.from_pretrained(fresh, tmp_path), **inputs), expected)


@pytest.mark.parametrize("make", [encoder_decoder, recurrent, lambda: decoder(**SPARSE)])
@pytest.mark.parametrize("config", [LoraConfig(), IA3Config()])
def test_every_family_has_targets(make, config):
    ids = random_ids(2, 9)
    step(get_peft_model(make(), copy.deepcopy(config)), input_ids=ids, labels=ids)


@pytest.mark.parametrize("make", [decoder, encoder_decoder, lambda: decoder(norm_position="post")])
def test_norms_are_tuned(make):
    ids = random_ids(2, 9)
    adapted = get_peft_model(make(), LNTuningConfig())
    step(adapted, input_ids=ids, labels=ids)
    assert {name.rpartition(".")[2] for name in adapted.base_model.targeted_module_names} >= {"input_layernorm"}


def test_the_final_norm_is_tuned_where_it_is_named():
    ids = random_ids(2, 9)
    step(
        get_peft_model(decoder(), LNTuningConfig(target_modules=["input_layernorm", "norm"])),
        input_ids=ids,
        labels=ids,
    )


@pytest.mark.parametrize("targets", [None, ["input_layernorm"]], ids=["by default", "named"])
@pytest.mark.parametrize("model_class", [TrineForCausalLM, TrineForMaskedLM], ids=["decoder", "encoder"])
def test_a_norm_that_a_model_lacks_is_not_tuned(model_class, targets, tmp_path):
    is_causal = model_class is TrineForCausalLM
    model = tiny_model(model_class, dtype=torch.float32, is_causal=is_causal, first_attention_norm=False)
    fresh, ids = copy.deepcopy(model), random_ids(2, 9)
    adapted = get_peft_model(model, LNTuningConfig(target_modules=targets))
    tuned = [name for name in adapted.base_model.targeted_module_names if name.endswith("input_layernorm")]
    norms = [name for name, module in fresh.named_modules() if isinstance(module, nn.RMSNorm)]
    assert tuned == [name for name in norms if name.endswith("input_layernorm")] == ["model.layers.1.input_layernorm"]
    inputs = {"input_ids": ids, "labels": ids}
    expected = step(adapted, **inputs)
    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(fresh, tmp_path)
    torch.testing.assert_close(logits_of(again, **inputs), expected)
    torch.testing.assert_close(logits_of(again.merge_and_unload(), **inputs), expected)


def test_cpt_computes_a_loss_from_the_logits():
    """It asks for them in training, with labels."""
    mask = {"cpt_token_ids": [5, 6, 7, 8], "cpt_mask": [1] * 4, "cpt_tokens_type_mask": [1, 2, 3, 4]}
    config = CPTConfig(task_type="CAUSAL_LM", tokenizer_name_or_path="none", **mask)
    ids = random_ids(2, 9)
    adapted = get_peft_model(decoder(), config).train()
    adapted(input_ids=ids, labels=ids, input_type_mask=torch.full_like(ids, 4)).loss.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in adapted.parameters())


@pytest.mark.parametrize("kind", ["full", "linear"])
def test_shadow_makes_a_copy_of_the_first_layer(kind):
    ids = random_ids(2, 9)
    adapted = get_peft_model(decoder(attention_types=kind), ShadowConfig(task_type="CAUSAL_LM", r=4)).train()
    outputs = adapted(input_ids=ids, labels=ids)
    outputs.loss.backward()
    assert outputs.logits.shape == (2, 9, SIZES["vocab_size"])
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in adapted.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["embed_tokens"]},
        {"trainable_token_indices": [3, 5]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
    ids=["lora", "tokens", "whole"],
)
@pytest.mark.parametrize("kind", ["decoder", "encoder", "encoder-decoder", "recurrent"])
def test_embeddings_are_adapted(kind, settings):
    makers = {
        "decoder": decoder,
        "encoder": lambda: tiny_model(
            TrineForMaskedLM, dtype=torch.float32, is_causal=False, type_vocab_size=2, position_type="learned"
        ),
        "encoder-decoder": encoder_decoder,
        "recurrent": recurrent,
    }
    if kind == "recurrent" and settings.get("target_modules") == ["q_proj"]:
        settings = {**settings, "target_modules": ["combine"]}
    ids = random_ids(2, 9)
    step(get_peft_model(makers[kind](), LoraConfig(**settings)), input_ids=ids, labels=ids)


@pytest.mark.parametrize(
    "make",
    [
        t5,
        encoder_decoder,
        lambda: encoder_decoder(tie_word_embeddings=False),
        lambda: encoder_decoder(share_embeddings=False),
    ],
    ids=["T5", "all tied", "head of its own", "two tables"],
)
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules=["q_proj", "q"], trainable_token_indices=[3, 63]),
        LoraConfig(target_modules=["q_proj", "q"], trainable_token_indices=[3, 63], ensure_weight_tying=True),
        TrainableTokensConfig(token_indices=[3, 63]),
    ],
    ids=["lora", "lora tied", "tokens alone"],
)
@pytest.mark.filterwarnings("ignore")  # of what is not tied
def test_new_tokens_of_an_encoder_decoder_are_merged_as_they_were_trained(make, config, tmp_path):
    """The weights of both stacks and of the head are one tensor, or some are; with new rows, as a user has them."""
    model = make()
    model.resize_token_embeddings(64)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    model.save_pretrained(tmp_path / "base")
    ids = torch.tensor([[5, 3, 63, 9, 3], [63, 7, 3, 11, 2]])
    inputs = {"input_ids": ids, "labels": ids}
    adapted = get_peft_model(model, copy.deepcopy(config))
    before = logits_of(adapted, **inputs)
    expected = step(adapted, **inputs)
    assert (expected - before).abs().max() > 1e-3
    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(type(model).from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(again, **inputs), expected)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits_of(merged, **inputs), expected)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits_of(type(model).from_pretrained(tmp_path / "merged"), **inputs), expected)


def test_rows_that_are_there_stay(monkeypatch):
    table = target_tables()["TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING"]
    monkeypatch.setitem(table, "trine", ["o_proj"])
    adapted = get_peft_model(decoder(), LoraConfig())
    assert {name.rpartition(".")[2] for name in adapted.base_model.targeted_module_names} == {"o_proj"}
    assert all("trine" in table for table in target_tables().values())


# A process in which `import trine` fails, and that imports PEFT when the models are there already.
STRANGER = """
import json, sys
sys.modules["trine"] = None
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

folder, *names = sys.argv[1:]
classes = {name: AutoModelForCausalLM if name == "decoder" else AutoModelForSeq2SeqLM for name in names}
models = {name: classes[name].from_pretrained(f"{folder}/{name}", trust_remote_code=True) for name in names}
assert "peft" not in sys.modules

import peft

found = {name: {} for name in names}
for name in names:
    for method in ("LoraConfig", "IA3Config", "LNTuningConfig")[: 2 if name == "recurrent" else 3]:
        adapted = peft.get_peft_model(models[name], getattr(peft, method)())
        found[name][method] = sorted(adapted.base_model.targeted_module_names)
        models[name] = adapted.unload()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_remote_code_has_the_same_targets(tmp_path, monkeypatch):
    expected = {}
    for name, make in {"decoder": decoder, "encoder-decoder": encoder_decoder, "recurrent": recurrent}.items():
        make().save_pretrained(tmp_path / name)
        configs = [LoraConfig(), IA3Config(), *([] if name == "recurrent" else [LNTuningConfig()])]
        targeted = [get_peft_model(make(), config).base_model.targeted_module_names for config in configs]
        names = [type(config).__name__ for config in configs]
        expected[name] = {key: sorted(value) for key, value in zip(names, targeted, strict=True)}
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    command = [sys.executable, "-c", STRANGER, str(tmp_path), *expected]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == expected
