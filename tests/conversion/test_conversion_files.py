"""Files of checkpoints: names of other times, shards, types, memory, and what stands beside the weights."""

import copy
import ctypes
import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.conversion_sources import (
    DECODER,
    TOKENS,
    assert_refused,
    edit_config,
    edit_weights,
    random_source,
    saved_source,
    weights_of,
)
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from trine import TrineConfig, TrineForCausalLM, convert, train_wordpiece
from trine.conversion.stream import CheckpointReader, CheckpointWriter


# Names.


def test_a_decoder_that_is_left_out_is_said(tmp_path, caplog):
    """T5's encoder alone ignores the decoder's tensors, as its class in transformers does."""
    source = saved_source(tmp_path, "t5", "T5ForConditionalGeneration")
    number = sum(name.startswith("decoder.") for name in weights_of(source))
    convert(source, tmp_path / "encoder", head="T5EncoderModel")
    (message,) = [record.message for record in caplog.records if "left out" in record.message]
    assert message.startswith(f"T5EncoderModel ignores {number} tensors of {source}, which are left out: decoder.")
    assert number > 5 and message.endswith(f" and {number - 5} more.")
    caplog.clear()
    convert(source, tmp_path / "whole")
    assert "left out" not in caplog.text


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
    source = copy.deepcopy(random_source("mixtral", "MixtralForCausalLM")).to(dtype)
    source.save_pretrained(tmp_path / "source", max_shard_size="20kB")
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


def peak_memory() -> int:
    """Largest resident memory, in bytes, since it was last reset."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # pyright: ignore[reportOptionalSubscript]


def reset_peak_memory() -> int:
    """Gives back what is free, forgets the peak, and returns what is in use, in bytes."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


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


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="Linux forgets the peak of a process")
def test_memory_stays_far_below_the_size(tmp_path):
    """The growth of the peak, also where the target is one shard; the same measure sees tensors that are kept."""
    size = write_large(tmp_path / "source", layers=8, hidden=512, max_shard_size="5MB")
    assert size > 70e6 and len(list((tmp_path / "source").glob("*.safetensors"))) > 10
    convert(saved_source(tmp_path / "small"), tmp_path / "warm")  # what is imported and made once
    before = reset_peak_memory()
    convert(tmp_path / "source", tmp_path / "target", max_shard_size="1GB")
    assert peak_memory() - before < 0.4 * size
    assert (tmp_path / "target" / "model.safetensors").stat().st_size > size
    before = reset_peak_memory()
    kept = [tensor.clone() for tensor in weights_of(tmp_path / "target").values()]
    assert peak_memory() - before > 0.9 * size and kept
