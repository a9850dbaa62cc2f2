"""Converted checkpoints compute what their sources compute, come back bit for bit, and are refused with a reason."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from trine import TrineConfig, TrineForCausalLM, convert, train_wordpiece
from trine.modeling.conversion import equivalence
from trine.modeling.conversion.checkpoint_stream import CheckpointReader, CheckpointWriter
from trine.modeling.conversion.conversion_plan import CLASSES
from trine.modeling.conversion.family_table import FAMILIES


TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ENCODER = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
}
DECODER = {**ENCODER, **TOKENS, "num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
T5 = {
    "vocab_size": 61,
    "d_model": 32,
    "num_layers": 3,  # more than in the decoder, after which the library sizes its cache
    "num_decoder_layers": 2,
    "num_heads": 4,
    "d_kv": 6,
    "d_ff": 40,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": True,
}
BART = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
    "scale_embedding": True,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    **TOKENS,
}
QWEN3 = {**DECODER, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "head_dim": 16}
# Family and fields of its config.
SOURCES = {
    "bert": ("bert", ENCODER),
    "bert_relu": ("bert", {**ENCODER, "hidden_act": "relu", "classifier_dropout": 0.3}),
    "roberta": ("roberta", ENCODER),
    "xlm-roberta": ("xlm-roberta", {**ENCODER, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "gpt2": ("gpt2", {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, **TOKENS}),
    "gpt2_inner": (
        "gpt2",
        {"vocab_size": 61, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 40, "n_inner": 24, **TOKENS},
    ),
    "llama": ("llama", {**DECODER, "attention_bias": True, "mlp_bias": True}),
    "llama_tied": ("llama", {**DECODER, "tie_word_embeddings": True, "head_dim": 16}),
    "llama_scaled": ("llama", {**DECODER, "rope_parameters": LLAMA3}),
    "llama_linear": (
        "llama",
        {**DECODER, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "mistral": ("mistral", {**DECODER, "sliding_window": 8}),
    "mistral_full": ("mistral", {**DECODER, "sliding_window": None}),
    "qwen3": ("qwen3", QWEN3),
    "mixtral": ("mixtral", {**DECODER, "num_local_experts": 4, "intermediate_size": 24}),
    "qwen3_moe": (
        "qwen3_moe",
        {**DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 2},
    ),
    "t5": ("t5", T5),
    "bart": ("bart", BART),
    "t5_v1_1": ("t5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
}
# All heads of four families are tested, and of the others, which share their code, the one for language.
CASES = [
    (name, head.source)
    for name, (family, _) in SOURCES.items()
    for head in FAMILIES[family].heads
    if name in ("bert", "roberta", "gpt2", "llama", "t5", "bart")
    or head.source.endswith(("CausalLM", "LMHeadModel", "MaskedLM", "ConditionalGeneration"))
]
# What another config says in other words, and fields that nothing reads.
OTHER_WORDS = {
    *("_name_or_path", "n_inner", "head_dim", "classifier_dropout", "max_window_layers", "mlp_only_layers"),
    *("decoder_sparse_step", "is_encoder_decoder"),
}


def random_source(name: str, class_name: str, seed: int = 0) -> nn.Module:
    """A model of the library in which every parameter, norms and biases too, is random."""
    family, fields = SOURCES[name]
    torch.manual_seed(seed)
    model = getattr(transformers, class_name)(AutoConfig.for_model(family, **fields)).eval()
    if name == "t5_v1_1" and class_name.endswith("Generation"):  # the published ones have a head of their own
        model.lm_head.weight = nn.Parameter(torch.randn(61, 32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0).add_(torch.randn_like(parameter), alpha=0.1)
    return model


def saved_source(tmp_path: Path, name: str = "llama", class_name: str = "LlamaForCausalLM", **options) -> Path:
    random_source(name, class_name).save_pretrained(tmp_path / "source", **options)
    return tmp_path / "source"


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}


def edit_config(folder: Path, **fields) -> None:
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in {**config, **fields}.items() if value != "REMOVE"}
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, edit) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def outputs(model: nn.Module, inputs: dict) -> dict[str, torch.Tensor]:
    """All outputs with values, of which those of tokens are set to 0 for padding."""
    with torch.no_grad():
        found = {key: value for key, value in model(**inputs).items() if isinstance(value, torch.Tensor)}
    real = inputs["attention_mask"]
    for key, value in found.items():
        if value.shape[: real.ndim] == real.shape and not key.startswith("pooler"):
            found[key] = value * real.reshape(real.shape + (1,) * (value.ndim - real.ndim))
    return found


@pytest.mark.parametrize(("name", "class_name"), CASES)
def test_outputs_are_equal_and_the_way_back_is_exact(tmp_path, name, class_name):
    family = SOURCES[name][0]
    model = random_source(name, class_name)
    model.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "ours")
    head = FAMILIES[family].choose_head(class_name)
    ours = CLASSES[head.trine].from_pretrained(tmp_path / "ours").eval()
    inputs = equivalence.random_inputs(model.config, class_name)
    assert (inputs["attention_mask"] == 0).any()
    expected, actual = outputs(model, inputs), outputs(ours, inputs)
    if "decoder_input_ids" not in inputs:
        assert expected.keys() == actual.keys()
    for key in actual:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-5, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")

    convert(tmp_path / "ours", tmp_path / "again", to=family)
    first, second = weights_of(tmp_path / "source"), weights_of(tmp_path / "again")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    configs = [AutoConfig.from_pretrained(tmp_path / folder).to_dict() for folder in ("source", "again")]
    if class_name == "T5EncoderModel":  # of the decoder nothing is left
        configs = [{key: config[key] for key in config if key in ("d_model", "num_layers")} for config in configs]
    differing = {key for key in {*configs[0], *configs[1]} if configs[0].get(key) != configs[1].get(key)}
    assert differing <= OTHER_WORDS
    again = getattr(transformers, class_name).from_pretrained(tmp_path / "again").eval()
    repeated = outputs(again, inputs)
    assert all(torch.equal(repeated[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    "name", ["gpt2", "llama_scaled", "mistral", "qwen3", "mixtral", "qwen3_moe", "t5", "t5_v1_1", "bart"]
)
@pytest.mark.parametrize("beams", [1, 3])
def test_generated_tokens_are_equal(tmp_path, name, beams):
    """With padding on the left for decoders, where the library counts positions as we do."""
    heads = FAMILIES[SOURCES[name][0]].heads
    head = next(head for head in heads if head.trine in ("TrineForCausalLM", "TrineForConditionalGeneration"))
    model = random_source(name, head.source)
    model.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "ours")
    ours = CLASSES[head.trine].from_pretrained(tmp_path / "ours").eval()
    inputs = equivalence.random_inputs(model.config, head.source)
    inputs = {key: inputs[key][:, :10] for key in ("input_ids", "attention_mask")}
    inputs["attention_mask"][1, :4] = 0
    inputs["input_ids"][1, :4] = 0
    options = {"max_new_tokens": 12, "num_beams": beams, "do_sample": False}
    assert torch.equal(ours.generate(**inputs, **options), model.generate(**inputs, **options))


# What is refused: fields of config.json, and the message.


REFUSED = {
    "bert": [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads={'0': [1]}"),
        ({"quantization_config": {"quant_method": "x"}}, "quantization_config="),
        ({"auto_map": {"AutoModel": "other.Model"}}, "auto_map="),
        ({"novelty": 0.5}, "novelty=0.5 of model_type='bert' is unknown to the conversion"),
    ],
    "roberta": [
        ({"hidden_act": "relu"}, "hidden_act='relu' of model_type='roberta'"),
        ({"pad_token_id": None}, "pad_token_id=None of model_type='roberta'"),
    ],
    "gpt2": [
        ({"scale_attn_weights": False}, "scale_attn_weights=False of model_type='gpt2' cannot be represented"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"embd_pdrop": 0.3}, "embd_pdrop=0.3 and resid_pdrop=0.1"),
    ],
    "llama": [
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}}, "0.5 of"),
        ({"attn_logit_softcapping": 30.0}, "attn_logit_softcapping=30.0 of model_type='llama' is unknown"),
        ({"hidden_act": "swoosh"}, "config.json makes no LlamaForCausalLM: it does not know 'swoosh'."),
    ],
    "bart": [({"normalize_before": True}, "normalize_before=True of model_type='bart' cannot be represented")],
    "mixtral": [({"router_jitter_noise": 0.1}, "router_jitter_noise=0.1 of model_type='mixtral'")],
}
HEADS = {"bert": "BertModel", "roberta": "RobertaForMaskedLM", "gpt2": "GPT2Model", "bart": "BartModel"}


@pytest.mark.parametrize(
    ("name", "fields", "message"), [(name, *case) for name, cases in REFUSED.items() for case in cases]
)
def test_settings_without_a_counterpart_are_named(tmp_path, name, fields, message):
    source = saved_source(tmp_path, name, HEADS.get(name, f"{name.capitalize()}ForCausalLM"))
    edit_config(source, **fields)
    assert_refused(source, tmp_path, message)


def assert_refused(source: Path, tmp_path: Path, message: str, error=ValueError, **options) -> None:
    """The message is as expected, and nothing is left beside the source."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=re.escape(message)):
        convert(source, tmp_path / "target", **options)
    assert sorted(tmp_path.iterdir()) == before


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


@pytest.mark.parametrize(
    ("name", "class_name"), [("roberta", "RobertaForMaskedLM"), ("gpt2", "GPT2LMHeadModel"), ("bart", "BartModel")]
)
def test_outputs_are_equal_with_either_backend(tmp_path, name, class_name):
    """In float64, where the order of sums shows no more; of families whose norms do not go through float32."""
    model = random_source(name, class_name).double()
    model.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "ours")
    ours_class = CLASSES[FAMILIES[name].choose_head(class_name).trine]
    inputs = equivalence.random_inputs(model.config, class_name)
    expected = outputs(model, inputs)
    for attn in ("eager", "sdpa"):
        ours = ours_class.from_pretrained(tmp_path / "ours", attn_implementation=attn).eval()
        actual = outputs(ours, inputs)
        for key in actual:
            torch.testing.assert_close(actual[key], expected[key], rtol=1e-9, atol=1e-9)


def test_classes_and_families_without_a_counterpart_are_named(tmp_path):
    source = saved_source(tmp_path, "bert", "BertForMaskedLM")
    edit_config(source, architectures=["BertForNextSentencePrediction"])
    assert_refused(source, tmp_path, "the class of a 'bert'='BertForNextSentencePrediction' is not one of")
    assert_refused(source, tmp_path, "to='gpt2', but the source has model_type='bert'", to="gpt2")
    edit_config(source, model_type="electra")
    assert_refused(source, tmp_path, "model_type='electra' of")
    other = saved_source(tmp_path / "other", "bert", "BertModel")
    (other / "config.json").write_bytes((saved_source(tmp_path / "more") / "config.json").read_bytes())
    assert_refused(other, tmp_path, "lacks tensors of LlamaForCausalLM")


def test_a_mixed_checkpoint_needs_the_name_of_a_class(tmp_path):
    """As bert-base is published: both heads of pretraining under the name of one."""
    source = saved_source(tmp_path, "bert", "BertForPreTraining")
    edit_config(source, architectures=["BertForMaskedLM"])
    assert_refused(source, tmp_path, "has tensors that BertForMaskedLM with this config.json has no use for")
    assert convert(source, tmp_path / "target", head="BertForPreTraining", check=True) <= 1e-5


def test_old_names_prefixes_buffers_and_copies_are_understood(tmp_path):
    source = saved_source(tmp_path, "bert", "BertForMaskedLM")
    expected = weights_of(source)

    def age(weights):
        for name in list(weights):
            for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
                if name.endswith(new):
                    weights[name.replace(new, old)] = weights.pop(name)
        weights["bert.embeddings.position_ids"] = torch.arange(40)[None]
        weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"].clone()
        weights["cls.predictions.decoder.bias"] = weights.pop("cls.predictions.bias")

    edit_weights(source, age)
    convert(source, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "again", to="bert")
    again = weights_of(tmp_path / "again")
    assert again.keys() == expected.keys() and all(torch.equal(again[name], expected[name]) for name in again)


def test_a_head_on_the_names_of_the_bare_model(tmp_path):
    """As gpt2 is published: no prefix, and the causal masks as buffers."""
    source = saved_source(tmp_path, "gpt2", "GPT2LMHeadModel")

    def age(weights):
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)
        weights["h.0.attn.bias"] = torch.ones(1, 1, 40, 40).tril()

    edit_weights(source, age)
    assert convert(source, tmp_path / "target", check=True) <= 1e-5


def test_the_bare_model_of_a_checkpoint_with_its_prefix(tmp_path):
    source = saved_source(tmp_path, "bert", "BertForTokenClassification")
    edit_config(source, architectures=["BertModel"])
    assert_refused(source, tmp_path, "'classifier.bias' in model.safetensors")
    edit_weights(source, lambda weights: [weights.pop(f"classifier.{kind}") for kind in ("weight", "bias")])
    convert(source, tmp_path / "target")
    config = TrineConfig.from_pretrained(tmp_path / "target")
    assert not config.add_pooling_layer  # the checkpoint has none


# What is wrong with files.


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path):
    source, name, other = saved_source(tmp_path), *(f"model.layers.{layer}.mlp.up_proj.weight" for layer in (1, 9))
    tensor = weights_of(source)[name]
    edit_weights(source, lambda weights: weights.pop(name))
    assert_refused(source, tmp_path, f"lacks tensors of LlamaForCausalLM: {name}.")
    edit_weights(source, lambda weights: weights.update({name: tensor, other: tensor + 1}))
    assert_refused(source, tmp_path, f"no use for: '{other}' in model.safetensors")
    edit_weights(source, lambda weights: weights.update({name: tensor[1:]}))
    edit_weights(source, lambda weights: weights.pop(other))
    message = f"The tensor '{name}' in model.safetensors has another shape than config.json says: '{name}' would be "
    assert_refused(source, tmp_path, message + "(39, 32) instead of (40, 32).")


def test_misshapen_parts_of_a_stacked_tensor_are_named(tmp_path):
    source = saved_source(tmp_path, "mixtral", "MixtralForCausalLM")
    name = "model.layers.0.block_sparse_moe.experts.1.w1.weight"
    edit_weights(source, lambda weights: weights.update({name: weights[name][1:]}))
    assert_refused(source, tmp_path, f"'{name}' in model.safetensors")


def test_damaged_missing_and_pickled_files_are_named(tmp_path):
    source = saved_source(tmp_path, max_shard_size="20kB")
    shards = sorted(source.glob("*.safetensors"))
    assert len(shards) > 2
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[: len(content) // 2])
    assert_refused(source, tmp_path, f"{shards[1]} is damaged or incomplete", OSError)
    shards[1].unlink()
    assert_refused(source, tmp_path, f"names {shards[1].name}, which is not there", OSError)
    save_file({"else": torch.zeros(1)}, shards[1])
    assert_refused(source, tmp_path, f"{shards[1]} lacks the tensor", OSError)
    (source / "model.safetensors.index.json").write_text("{")
    assert_refused(source, tmp_path, "model.safetensors.index.json is damaged", OSError)
    (source / "model.safetensors.index.json").unlink()
    assert_refused(source, tmp_path, "has neither model.safetensors nor model.safetensors.index.json", OSError)
    torch.save({}, source / "pytorch_model.bin")
    assert_refused(source, tmp_path, "Save them as safetensors first", OSError)
    (source / "config.json").unlink()
    assert_refused(source, tmp_path, "has no config.json", OSError)


def test_the_target_must_be_free(tmp_path):
    source = saved_source(tmp_path)
    (tmp_path / "target").mkdir()
    convert(source, tmp_path / "target")  # an empty folder is free
    with pytest.raises(FileExistsError, match="is there already"):
        convert(source, tmp_path / "target")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_half_written_remains(tmp_path, monkeypatch, error):
    source, written = saved_source(tmp_path), []

    def write(self, name, tensor):
        written.append(name)
        if len(written) == 5:
            raise error

    monkeypatch.setattr(CheckpointWriter, "write", write)
    with pytest.raises(error):
        convert(source, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_check_notices_a_difference(tmp_path, monkeypatch):
    source, write = saved_source(tmp_path), CheckpointWriter.write
    monkeypatch.setattr(CheckpointWriter, "write", lambda self, name, tensor: write(self, name, tensor * 1.01))
    assert_refused(
        source, tmp_path, "The outputs of LlamaForCausalLM and TrineForCausalLM differ by up to", check=True
    )


# From ours to others.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_types": "full, sliding"}, "attention_types=['full', 'sliding'] cannot be represented in"),
        ({"attention_types": "linear"}, "attention_types=['linear', 'linear'] cannot be represented"),
        ({"norm_type": "layernorm"}, "norm_type='layernorm' cannot be represented in model_type='llama'"),
        ({"attention_scale": 1.0}, "attention_scale=1.0 cannot be represented"),
        ({"mlp_layer_types": "sparse"}, "mlp_layer_types=['sparse', 'sparse'] cannot be represented"),
        ({"hidden_dropout": 0.1}, "hidden_dropout=0.1 cannot be represented"),
    ],
)
def test_what_a_family_lacks_is_named(tmp_path, fields, message):
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    TrineForCausalLM(TrineConfig(**sizes, **fields)).save_pretrained(tmp_path / "source")
    assert_refused(tmp_path / "source", tmp_path, message, to="llama")


def test_ours_from_scratch_becomes_theirs(tmp_path):
    config = TrineConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, simplicial_window=7, **TOKENS
    )  # of the fields of other kinds nothing is read
    model = TrineForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "source")
    assert_refused(tmp_path / "source", tmp_path, "to=None is not one of")
    assert_refused(tmp_path / "source", tmp_path, "the class of a 'bert'='TrineForCausalLM' is not one of", to="bert")
    assert convert(tmp_path / "source", tmp_path / "target", to="llama", check=True) <= 1e-5


def test_a_bias_that_the_target_lacks_must_be_zero(tmp_path):
    convert(saved_source(tmp_path, "llama", "LlamaForSequenceClassification"), tmp_path / "ours")
    edit_weights(tmp_path / "ours", lambda weights: weights["classifier.bias"].fill_(0.5))
    message = "The tensor 'classifier.bias' in model.safetensors: has no counterpart in the target, and is not zero."
    assert_refused(tmp_path / "ours", tmp_path, message, to="llama")


def test_a_buffer_that_we_lack_must_be_zero(tmp_path):
    source = saved_source(tmp_path, "bart", "BartForConditionalGeneration")
    edit_weights(source, lambda weights: weights["final_logits_bias"].fill_(0.5))
    assert_refused(source, tmp_path, "The tensor 'final_logits_bias' in model.safetensors: has no counterpart")


# What comes along.


def test_tokenizer_generation_and_sentence_files_come_along(tmp_path):
    source = saved_source(tmp_path)
    tokenizer = train_wordpiece(["a short text", "a text that is longer"], vocab_size=200, show_progress=False)
    tokenizer.save_pretrained(source)
    GenerationConfig(max_new_tokens=7, **TOKENS).save_pretrained(source)
    (source / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    convert(source, tmp_path / "target")
    for name in ("tokenizer.json", "generation_config.json", "modules.json", "1_Pooling/config.json"):
        assert (tmp_path / "target" / name).read_bytes() == (source / name).read_bytes()
    moved = AutoTokenizer.from_pretrained(tmp_path / "target")
    assert moved("a text")["input_ids"] == tokenizer("a text")["input_ids"]
    card = (tmp_path / "target" / "README.md").read_text()
    assert "TrineForCausalLM" in card


def test_a_tokenizer_without_a_class_gets_one(tmp_path):
    """Older checkpoints leave it to the model's type, which changes."""
    source = saved_source(tmp_path, "bert", "BertModel")
    tokenizer = train_wordpiece(["a short text"], vocab_size=200, show_progress=False)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tokenizer.save_pretrained(source)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    del settings["tokenizer_class"]
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    convert(source, tmp_path / "target")
    moved, expected = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("target", "source"))
    assert moved("a short text")["input_ids"] == expected("a short text")["input_ids"]


def test_settings_of_generation_in_an_old_config_get_a_file(tmp_path):
    source = saved_source(tmp_path)
    (source / "generation_config.json").unlink(missing_ok=True)
    edit_config(source, num_beams=3, **TOKENS)
    convert(source, tmp_path / "target")
    assert GenerationConfig.from_pretrained(tmp_path / "target").num_beams == 3


# Shards, types and memory.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_shards_and_types_are_kept(tmp_path, dtype):
    random_source("mixtral", "MixtralForCausalLM").to(dtype).save_pretrained(
        tmp_path / "source", max_shard_size="20kB"
    )
    convert(tmp_path / "source", tmp_path / "ours", max_shard_size=15_000)
    shards = sorted((tmp_path / "ours").glob("*.safetensors"))
    assert len(shards) > 3
    ours = TrineForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto")
    assert ours.dtype == dtype
    convert(tmp_path / "ours", tmp_path / "again", to="mixtral")
    first, second = weights_of(tmp_path / "source"), weights_of(tmp_path / "again")
    assert all(second[name].dtype == dtype and torch.equal(first[name], second[name]) for name in first)


def test_the_writer_writes_the_format(tmp_path):
    """Tensors of several types, empty and scalar ones, read by the format's own library."""
    tensors = {"half": torch.randn(3).half(), "wide": torch.randn(2, 3).double().T, "empty": torch.zeros(0, 4)}
    tensors |= {"scalar": torch.tensor(1.5), "flags": torch.tensor([True, False, True])}
    writer = CheckpointWriter(tmp_path, {name: tensor.to("meta") for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        writer.write(name, tensor)
    read = load_file(tmp_path / "model.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in read)
    assert CheckpointReader(tmp_path).metas["wide"].shape == (3, 2)


MEASURE = """
import re, sys
from pathlib import Path
from trine import convert

def peak():  # not `ru_maxrss`, which begins with that of the parent
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak()
convert(sys.argv[1], sys.argv[2], max_shard_size="1GB")
print(peak() - before)
"""


def write_large(folder: Path, layers: int, hidden: int, max_shard_size: str) -> int:
    """A Llama of a wanted size, written a tensor at a time. Returns its bytes."""
    fields = {**DECODER, "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers}
    config = AutoConfig.for_model("llama", **fields, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    with torch.device("meta"):
        metas = transformers.LlamaForCausalLM(config).state_dict()
    writer = CheckpointWriter(folder, metas, max_shard_size)
    for name, meta in metas.items():
        writer.write(name, torch.full(meta.shape, 0.01))
    return sum(meta.nbytes for meta in metas.values())


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells the peak of a process by itself")
def test_memory_stays_far_below_the_size(tmp_path):
    """Measured in a process of its own, as the growth of its peak; the target is one shard as large as everything."""
    size = write_large(tmp_path / "source", layers=8, hidden=1024, max_shard_size="20MB")
    assert size > 250e6
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "source"), str(tmp_path / "target")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 0.4 * size
    assert (tmp_path / "target" / "model.safetensors").stat().st_size > size
