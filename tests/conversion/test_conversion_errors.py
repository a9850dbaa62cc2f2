"""What cannot be converted is refused with a reason, and nothing half-written remains."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from support.conversion_sources import (
    REFUSALS,
    TOKENS,
    assert_refused,
    edit_config,
    edit_weights,
    saved_source,
    weights_of,
)
from support.messages import unseen

from trine import TrineConfig, TrineForCausalLM, convert
from trine.configuration.atomic_saving import locked
from trine.conversion.stream import CheckpointWriter


RAN: set[str] = set()  # the tests of this file that have run in this process


@pytest.fixture(autouse=True)
def remember(request):
    yield
    RAN.add(request.node.nodeid)


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
    "modernbert": [
        ({"classifier_bias": True}, "classifier_bias=True of model_type='modernbert' cannot be represented"),
        ({"classifier_activation": "relu"}, "classifier_activation='relu' of model_type='modernbert' cannot be"),
        ({"decoder_bias": False}, "decoder_bias=False of model_type='modernbert' cannot be represented"),
        ({"norm_bias": True}, "lacks tensors of ModernBertForMaskedLM: head.norm.bias, model.embeddings.norm.bias"),
    ],
    "bart": [({"normalize_before": True}, "normalize_before=True of model_type='bart' cannot be represented")],
    "mixtral": [({"router_jitter_noise": 0.1}, "router_jitter_noise=0.1 of model_type='mixtral'")],
}
HEADS = {
    "bert": "BertModel",
    "roberta": "RobertaForMaskedLM",
    "modernbert": "ModernBertForMaskedLM",
    "gpt2": "GPT2Model",
    "bart": "BartModel",
}


@pytest.mark.parametrize(
    ("name", "fields", "message"), [(name, *case) for name, cases in REFUSED.items() for case in cases]
)
def test_settings_without_a_counterpart_are_named(tmp_path, name, fields, message):
    source = saved_source(tmp_path, name, HEADS.get(name, f"{name.capitalize()}ForCausalLM"))
    edit_config(source, **fields)
    assert_refused(source, tmp_path, message)


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
    (source / "config.json").write_text("{")
    assert_refused(source, tmp_path, f"{source / 'config.json'} is damaged", OSError)
    (source / "config.json").write_text("[]")
    assert_refused(source, tmp_path, f"{source / 'config.json'} is damaged", OSError)
    (source / "config.json").unlink()
    assert_refused(source, tmp_path, "has no config.json", OSError)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:4],
        lambda content: content[:-1],
        lambda content: content + b"0",
        lambda content: b"\xff" * 100,
        lambda content: content[:8] + b"{" * 50 + content[58:],
    ],
    ids=["empty", "no header", "a byte less", "a byte more", "no safetensors", "garbage as header"],
)
def test_a_damaged_file_is_named(tmp_path, damage):
    file = saved_source(tmp_path) / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    assert_refused(tmp_path / "source", tmp_path, f"{file} is damaged or incomplete", OSError)


def test_the_target_must_be_free(tmp_path):
    source = saved_source(tmp_path)
    (tmp_path / "target").mkdir()
    convert(source, tmp_path / "target")  # an empty folder is free
    assert_refused(source, tmp_path, f"target='{tmp_path / 'target'}' is there already", FileExistsError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_half_written_remains(tmp_path, monkeypatch, error):
    source, written = saved_source(tmp_path), []

    def write(self, name, tensor):
        written.append(name)
        if len(written) == 5:
            raise error

    monkeypatch.setattr(CheckpointWriter, "write", write)
    for target in ("target", "new/folders/target"):
        written.clear()
        with pytest.raises(error):
            convert(source, tmp_path / target)
        assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("factor", [1.0001, float("nan")])
def test_the_check_notices_a_difference(tmp_path, monkeypatch, factor):
    source, write = saved_source(tmp_path), CheckpointWriter.write
    monkeypatch.setattr(CheckpointWriter, "write", lambda self, name, tensor: write(self, name, tensor * factor))
    assert_refused(
        source, tmp_path, "The outputs of LlamaForCausalLM and TrineForCausalLM differ by up to", check=True
    )


# What files name.


@pytest.fixture
def secret(tmp_path):
    """A folder of the user's, beside the checkpoint."""
    (tmp_path / "home" / "keys").mkdir(parents=True)
    (tmp_path / "home" / "keys" / "id").write_text("secret")
    return tmp_path / "home"


def refuse(source, tmp_path, message):
    assert_refused(source, tmp_path, message, OSError)
    assert not [path for path in tmp_path.rglob("id") if path.parent.name == "keys" and "home" not in path.parts]


@pytest.mark.parametrize("name", ["../home", "{home}", "part/../../home", "..", "C:\\home", 7, None])
def test_modules_may_not_lie_elsewhere(tmp_path, secret, name):
    source = saved_source(tmp_path)
    name = name.format(home=secret) if isinstance(name, str) else name
    (source / "modules.json").write_text(json.dumps([{"path": ""}, {"path": name}]))
    refuse(source, tmp_path, "lies outside of the folder" if isinstance(name, str) else "is no module with a path")


@pytest.mark.parametrize("place", ["1_Pooling", "1_Pooling/inner", "tokenizer", "vocab.txt", "model.safetensors"])
def test_links_may_not_lead_elsewhere(tmp_path, secret, place):
    source = saved_source(tmp_path)
    (source / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
    (source / place).parent.mkdir(exist_ok=True)
    (source / place).unlink(missing_ok=True)
    (source / place).symlink_to(secret / "keys" / "id" if "." in place else secret / "keys")
    refuse(source, tmp_path, f"{source / place} is a link that leads out of {source}")


def test_shards_may_not_lie_elsewhere(tmp_path):
    source = saved_source(tmp_path, max_shard_size="20kB")
    index = source / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    for place in ("../model.safetensors", str(tmp_path / "model.safetensors"), ["x"]):
        content["weight_map"]["model.norm.weight"] = place
        index.write_text(json.dumps(content))
        refuse(source, tmp_path, f"{index} names {place!r}, which lies outside of the folder.")
    index.write_text('{"weight_map": []}')
    refuse(source, tmp_path, f"{index} is damaged: it has no weight_map.")
    edit_config(source, transformers_weights="../model.safetensors")
    refuse(source, tmp_path, "config.json names '../model.safetensors', which lies outside")


@pytest.mark.parametrize(
    ("text", "message"), [("{}", "it holds dict, not a list"), ("{", "is damaged: JSON"), ("[1]", "1 is")]
)
def test_damaged_modules_are_named(tmp_path, text, message):
    source = saved_source(tmp_path)
    (source / "modules.json").write_text(text)
    refuse(source, tmp_path, message)


def test_a_tokenizer_may_not_read_files_elsewhere(tmp_path, secret):
    source = saved_source(tmp_path, "bert", "BertModel")
    (source / "vocab.txt").write_text("[UNK]\n[PAD]\na\n")
    (source / "tokenizer_config.json").write_text(json.dumps({"vocab_file": str(secret / "keys" / "id")}))
    refuse(source, tmp_path, "tokenizer_config.json names '/")
    (source / "tokenizer_config.json").write_text("[]")
    refuse(source, tmp_path, "tokenizer_config.json is damaged: it holds list, not fields.")


# Tensors that no class reads.


def test_several_heads_are_told_which_to_name(tmp_path):
    """As in bert-base-uncased, which calls itself a BertForMaskedLM."""
    source = saved_source(tmp_path, "bert", "BertForPreTraining")
    edit_config(source, architectures=["BertForMaskedLM"])
    message = "All of its tensors are read with head='BertForPreTraining' (--head BertForPreTraining)."
    assert_refused(source, tmp_path, message)
    convert(source, tmp_path / "target", head="BertForPreTraining", check=True)


def test_what_is_not_wanted_is_left_out_by_name(tmp_path):
    """A RoBERTa with a head and a pooler, which no class has together."""
    source = saved_source(tmp_path, "roberta", "RobertaForMaskedLM")
    pooler = {"roberta.pooler.dense.weight": torch.randn(32, 32), "roberta.pooler.dense.bias": torch.randn(32)}
    edit_weights(source, lambda weights: weights.update(pooler))
    assert_refused(source, tmp_path, "left out by name: leave_out=['PATTERN'] (--leave_out PATTERN)")
    assert_refused(source, tmp_path, "leave_out='pooler' names none of the tensors", leave_out=["pooler"])
    assert convert(source, tmp_path / "masked", leave_out=["roberta.pooler.*"], check=True) <= 1e-5
    assert convert(source, tmp_path / "pooled", head="RobertaModel", leave_out=["lm_head.*"], check=True) <= 1e-5
    kept = weights_of(tmp_path / "pooled")
    assert torch.equal(kept["pooler.dense.weight"], pooler["roberta.pooler.dense.weight"])


def test_what_the_class_itself_ignores_is_no_obstacle(tmp_path):
    source = saved_source(tmp_path, "bart", "BartForConditionalGeneration")
    buffers = {f"model.{side}.version": torch.tensor([3.0]) for side in ("encoder", "decoder")}
    edit_weights(source, lambda weights: weights.update(buffers))
    assert convert(source, tmp_path / "target", check=True) <= 1e-5


def test_what_a_killed_conversion_left_is_removed(tmp_path):
    """And what one that is at work has made is not."""
    source = saved_source(tmp_path)
    for name in (".target.0123abcd", ".target.89abcdef", ".target.other", ".target2.0123abcd"):
        (tmp_path / name).mkdir()
    with locked(tmp_path / ".target.89abcdef") as lock:
        assert lock.take()
        convert(source, tmp_path / "target")
    assert {path.name for path in tmp_path.glob(".*")} == {".target.89abcdef", ".target.other", ".target2.0123abcd"}


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
        (
            {"embedding_norm": True, "first_attention_norm": False},
            "first_attention_norm=False cannot be represented in model_type='llama', where it is True.",
        ),
    ],
)
def test_what_a_family_lacks_is_named(tmp_path, fields, message):
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    TrineForCausalLM(TrineConfig(**sizes, **fields)).save_pretrained(tmp_path / "source")
    assert_refused(tmp_path / "source", tmp_path, message, to="llama")


def test_rotary_parameters_of_each_layer_type_need_a_family_that_has_them(tmp_path):
    rope = {"full_attention": {"rope_theta": 5e4}, "sliding_attention": {"rope_theta": 1e4}}
    fields = {"attention_types": "full, sliding", "qk_norm": True, "rope_parameters": rope, "num_hidden_layers": 2}
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_attention_heads": 4}
    TrineForCausalLM(TrineConfig(**sizes, **fields)).save_pretrained(tmp_path / "source")
    assert_refused(tmp_path / "source", tmp_path, "rope_parameters={'full_attention': {'rope_theta': 5", to="qwen3")
    rope["sliding_attention"] = rope["full_attention"]
    TrineForCausalLM(TrineConfig(**sizes, **fields)).save_pretrained(tmp_path / "same")
    assert convert(tmp_path / "same", tmp_path / "target", to="qwen3", check=True) <= 1e-5


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


# What is left.


def test_types_copies_and_places_that_cannot_be_read_are_named(tmp_path):
    source = saved_source(tmp_path, "bert", "BertModel")
    assert_refused(tmp_path / "nowhere", tmp_path, "nowhere' is no folder, and cannot be had from the Hub", OSError)
    name = "embeddings.LayerNorm"
    edit_weights(source, lambda weights: weights.update({f"{name}.gamma": weights[f"{name}.weight"].clone()}))
    assert_refused(source, tmp_path, f"'{name}.weight' and '{name}.gamma' are the same tensor, '{name}.weight'.")
    edit_weights(source, lambda weights: weights.update({f"{name}.gamma": torch.zeros(2, dtype=torch.uint16)}))
    assert_refused(source, tmp_path, f"the tensor '{name}.gamma' has the type U16, not ['F64', ")


def test_a_tensor_of_ours_that_a_family_lacks_is_named(tmp_path):
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    TrineForCausalLM(TrineConfig(**sizes, position_type="learned")).save_pretrained(tmp_path / "source")
    message = "Trine's tensor 'model.layers.0.mlp.gate_proj.weight' has no counterpart in this family."
    assert_refused(tmp_path / "source", tmp_path, message, to="gpt2")


def test_every_error_of_the_conversion_is_tested(request):
    """By the tests above; where they are spread over processes, all run once more in one."""
    items = [item for item in request.session.items if item.path == request.path]
    written = {name for name in vars(request.module) if name.startswith("test_")}
    others = {item.nodeid for item in items} - {request.node.nodeid}
    if not others <= RAN or {item.originalname for item in items} != written:
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(request.path)]
        result = subprocess.run(command, cwd=request.config.rootpath, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout
        return
    parts = [message.split(".safetensors: ")[-1] for message in REFUSALS]  # what follows the name of a tensor
    places = unseen("conversion", [*REFUSALS, *parts])
    others = ("families/vit", "families/clip", "gguf", "programs", "lifts", "pieces", "quantization")
    elsewhere = tuple(f"conversion/{part}" for part in others)
    assert [place for place in places if not place.startswith(elsewhere)] == []
