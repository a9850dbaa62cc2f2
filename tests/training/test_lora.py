"""The targets of LoRA: each name matches, each kind of layer gets adapters, and nothing else does."""

import re

import pytest
import torch
from peft import PeftModel, get_peft_model
from support.tiny import SIZES, SPARSE, random_ids, tiny_config, tiny_model
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from trine import (
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineForSequenceClassification,
    TrineRecurrentConfig,
    TrineSeq2SeqConfig,
)
from trine.configuration.kinds import ATTENTION_KINDS
from trine.training.adapters.lora import PARTS, lora_targets, make_lora_config


ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
SECOND = {"second_k_proj", "second_v_proj"}
GATED = {"gate_proj", "up_proj", "down_proj"}
EXPERTS = {"experts.gate_up_proj", "experts.down_proj"}
SIMPLICIAL = {"attention_types": "full, simplicial", "simplicial_form": "complex"}
KINDS = {"attention_types": ", ".join(ATTENTION_KINDS), "num_hidden_layers": len(ATTENTION_KINDS)}
LIBRARY = {name: value for name, value in SIZES.items() if name in BertConfig().to_dict()}
STACK = {**SIZES, "pad_token_id": 0, "bos_token_id": 1}
MODELS = {
    "decoder": lambda: TrineForCausalLM(tiny_config(**KINDS)),
    "plain": lambda: TrineForCausalLM(tiny_config(gated_mlp=False)),
    "sparse": lambda: TrineForCausalLM(tiny_config(**SIMPLICIAL, **SPARSE)),
    "plain experts": lambda: TrineForCausalLM(tiny_config(mlp_layer_types="dense, sparse", gated_mlp=False)),
    "encoder": lambda: TrineForMaskedLM(tiny_config(is_causal=False, **KINDS)),
    "classifier": lambda: TrineForSequenceClassification(tiny_config(is_causal=False, add_pooling_layer=True)),
    "encoder-decoder": lambda: TrineForConditionalGeneration(TrineSeq2SeqConfig(encoder=STACK, decoder=STACK)),
    "BERT": lambda: BertForMaskedLM(BertConfig(**LIBRARY)),
    "GPT-2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4)),
    "T5": lambda: T5ForConditionalGeneration(T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=40, num_layers=2)),
}


def adapted(model: nn.Module) -> set[str]:
    """Names of the weights that have adapters in a model of PEFT, as they are called in the base."""
    found = set()
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A") and len(module.lora_A):
            plain = re.sub(r"\.base_layer\b", "", name)
            found.add(f"{plain}.{getattr(module, 'parameter_name', 'weight')}")
    return found


def matrices(model: nn.Module, part: str) -> set[str]:
    """What a reader of the modeling code would list: the weights of projections in layers, by the part they are in."""
    found = set()
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or not re.search(r"\.(layers?|h|block)\.\d+\.", name):
            continue
        if re.search(r"norm|ln_|relative_attention_bias|offset_bias|mlp\.gate\.", name, flags=re.IGNORECASE):
            continue
        is_attention = re.search(r"attn|attention", name, flags=re.IGNORECASE)
        if part == ("attention" if is_attention else "experts" if ".experts." in name else "feed_forward"):
            found.add(name)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_each_part_is_adapted_whole_and_nothing_else(name):
    model = MODELS[name]()
    expected = {part: matrices(model, part) for part in PARTS}
    for part in [part for part in PARTS if expected[part]]:
        config = make_lora_config(MODELS[name](), rank=2, alpha=4, targets=[part])
        assert adapted(get_peft_model(MODELS[name](), config)) == expected[part], part
    everything = get_peft_model(model, make_lora_config(model, rank=2, alpha=4))
    assert adapted(everything) == set.union(*expected.values())


@pytest.mark.parametrize("name", MODELS)
def test_every_name_matches_something(name):
    model = MODELS[name]()
    targets = lora_targets(model)
    for names, there in (
        (targets["target_modules"], [name for name, _ in model.named_modules()]),
        (targets["target_parameters"], [name for name, _ in model.named_parameters()]),
    ):
        assert all(any(place.endswith(f".{name}") for place in there) for name in names)


def test_the_names_of_trine():
    targets = lora_targets(tiny_config(**SIMPLICIAL, mlp_layer_types="dense, sparse", num_shared_experts=1))
    assert set(targets["target_modules"]) == ATTENTION | SECOND | GATED
    assert set(targets["target_parameters"]) == EXPERTS
    assert lora_targets(tiny_config(), ["attention"]) == {
        "target_modules": sorted(ATTENTION),
        "target_parameters": [],
    }
    assert set(lora_targets(tiny_config(gated_mlp=False), ["feed_forward"])["target_modules"]) == {
        "up_proj",
        "down_proj",
    }


@pytest.mark.parametrize("name", ["decoder", "sparse", "encoder-decoder"])
def test_a_config_has_the_targets_of_its_model(name):
    model = MODELS[name]()
    assert lora_targets(model.config) == lora_targets(model)


@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_every_adapter_of_a_sparse_simplicial_model_learns_and_merges(experts, tmp_path):
    dtype = torch.float32 if experts == "grouped_mm" else torch.float64
    fields = {**SIMPLICIAL, **SPARSE, "experts": experts, "dtype": dtype, "scale": 1.0}
    model, ids = tiny_model(**fields), random_ids(2, 9)
    peft_model = get_peft_model(model, make_lora_config(model, rank=2, alpha=4, task_type="CAUSAL_LM"))
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)  # B begins as zero, which would hide A
    peft_model.train()(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in peft_model.parameters() if p.requires_grad)
    logits = peft_model.eval()(ids).logits
    assert not torch.allclose(logits, tiny_model(**fields)(ids).logits)

    peft_model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_model(**fields), str(tmp_path))
    torch.testing.assert_close(again.eval()(ids).logits, logits)
    torch.testing.assert_close(again.merge_and_unload()(ids).logits, logits)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lora_targets(tiny_config(), ["atention"]), "parts='atention' is not one of ['attention', "),
        (
            lambda: lora_targets(tiny_config(), ["attention", "experts"]),
            "parts=['attention', 'experts'] are not all in TrineModel, which has ['attention', 'feed_forward'].",
        ),
        (lambda: lora_targets(TrineRecurrentConfig(vocab_size=61)), "TrineRecurrentModel, which has []"),
        (lambda: lora_targets(tiny_config(), "attention"), "parts='attention' is one part; pass a list."),
        (
            lambda: make_lora_config(MODELS["sparse"](), rank=2, alpha=4, dropout=0.1),
            "dropout=0.1 does not go with the fused experts ['experts.down_proj', 'experts.gate_up_proj']",
        ),
        (
            lambda: make_lora_config(MODELS["sparse"](), rank=2, alpha=4, use_dora=True),
            "use_dora=True does not go with the fused experts",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()


def test_dora_and_dropout_go_with_the_other_parts():
    model = MODELS["sparse"]()
    config = make_lora_config(
        model, rank=2, alpha=4, dropout=0.1, use_dora=True, targets=["attention", "feed_forward"]
    )
    adapter = get_peft_model(model, config).base_model.model.model.layers[1].self_attn.second_k_proj
    assert adapter.use_dora["default"] and adapter.lora_dropout["default"].p == 0.1
