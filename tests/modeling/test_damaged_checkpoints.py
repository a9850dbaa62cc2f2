"""A checkpoint that lost something is refused, with the names of tensor and file; a new head is no loss."""

import json
import random
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.shards import cut_the_header, damaged_shards, scribble, truncate
from support.tiny import SIZES, SPARSE, random_ids, tiny_config, tiny_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from trine import (
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineForSequenceClassification,
    TrineModel,
    TrineSeq2SeqConfig,
    TrineSeq2SeqModel,
)


PLAIN = {"dtype": torch.float32, "export_code": False, "scale": 1.0}
NAME = "layers.1.mlp.up_proj.weight"


@pytest.fixture
def quiet():
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


def edit(folder, change, file="model.safetensors"):
    weights = load_file(folder / file)
    change(weights)
    save_file(weights, folder / file, metadata={"format": "pt"})


def test_a_changed_byte_of_the_header_is_noticed(tmp_path, quiet):
    """Whatever the byte becomes: the weights are those that were saved, or there is an error that names the place."""
    model = tiny_model(num_hidden_layers=1, router_type="sigmoid", **{**SPARSE, **PLAIN})
    model.save_pretrained(tmp_path)
    file, expected, bytes_ = tmp_path / "model.safetensors", model.state_dict(), random.Random(0)
    content = file.read_bytes()
    length, refused = 8 + int.from_bytes(content[:8], "little"), 0
    for _ in range(150):
        damaged, place = bytearray(content), bytes_.randrange(length)
        damaged[place] = bytes_.choice(
            [damaged[place] ^ 1 << bytes_.randrange(8), ord(bytes_.choice('0aIUFb_."[]{},:'))]
        )
        file.write_bytes(damaged)
        try:
            actual = TrineForCausalLM.from_pretrained(tmp_path).state_dict()
        except OSError as error:
            assert str(tmp_path) in str(error)
            refused += 1
        else:
            assert actual.keys() == expected.keys()
            assert all(torch.equal(actual[name], expected[name]) for name in expected), (place, damaged[place])
    assert refused > 100


def test_integers_in_place_of_weights_are_refused(tmp_path):
    """One byte of the header more or less, and the file is as long as it should be."""
    tiny_model(**PLAIN).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"dtype":"F32"', b'"dtype":"I32"', 1))
    with pytest.raises(
        OSError, match="model.safetensors is damaged: the tensor '.*' has the type I32, which are integ"
    ):
        TrineForCausalLM.from_pretrained(tmp_path)


def seq2seq(model_class):
    stack = {**SIZES, "pad_token_id": 0, "bos_token_id": 1}
    return model_class(TrineSeq2SeqConfig(encoder=stack, decoder=stack, export_code=False))


@pytest.mark.parametrize(
    ("written", "read", "name"),
    [
        ("TrineForCausalLM", None, f"model.{NAME}"),
        ("TrineForCausalLM", None, "model.norm.weight"),
        ("TrineForMaskedLM", None, "transform.dense.weight"),
        ("TrineForMaskedLM", TrineModel, NAME),
        ("TrineForMaskedLM", TrineForSequenceClassification, f"model.{NAME}"),
        ("TrineModel", TrineForMaskedLM, f"model.{NAME}"),
        ("TrineModel", None, "pooler.dense.weight"),
        ("TrineForConditionalGeneration", None, f"model.decoder.{NAME}"),
        ("TrineForConditionalGeneration", TrineSeq2SeqModel, f"encoder.{NAME}"),
    ],
)
def test_a_lost_tensor_is_an_error(tmp_path, written, read, name):
    classes = {each.__name__: each for each in (TrineForCausalLM, TrineForMaskedLM, TrineModel)}
    if written in classes:
        is_causal = written == "TrineForCausalLM"
        model = tiny_model(classes[written], is_causal=is_causal, add_pooling_layer=written == "TrineModel", **PLAIN)
    else:
        model = seq2seq(TrineForConditionalGeneration)
    model.save_pretrained(tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    stored = next(key for key in kept if key.removeprefix("model.") == name.removeprefix("model."))
    edit(tmp_path, lambda weights: weights.pop(stored))
    with pytest.raises(
        OSError, match=f"model.safetensors lacks the tensor '{name}', which the {written} that was saved"
    ):
        (read or type(model)).from_pretrained(tmp_path)
    loaded, report = (read or type(model)).from_pretrained(tmp_path, output_loading_info=True)
    assert name in report["missing_keys"] and not hasattr(loaded, "loading_fault")
    assert (read or type(model)).from_pretrained(tmp_path, ignore_mismatched_sizes=True) is not None


def test_new_heads_poolers_and_ties_are_no_loss(tmp_path):
    encoder = tiny_model(TrineModel, is_causal=False, **PLAIN)
    encoder.save_pretrained(tmp_path / "encoder")
    for model_class in (TrineForMaskedLM, TrineForSequenceClassification):
        model = model_class.from_pretrained(tmp_path / "encoder")
        assert torch.equal(model.model.norm.weight, encoder.norm.weight)
    tiny_model(TrineForMaskedLM, is_causal=False, add_pooling_layer=True, **PLAIN).save_pretrained(tmp_path / "masked")
    assert TrineModel.from_pretrained(tmp_path / "masked").pooler is not None
    tied = tiny_model(tie_word_embeddings=True, **PLAIN)
    tied.save_pretrained(tmp_path / "tied")
    ids = random_ids(1, 5)
    torch.testing.assert_close(TrineForCausalLM.from_pretrained(tmp_path / "tied")(ids).logits, tied(ids).logits)
    seq2seq(TrineSeq2SeqModel).save_pretrained(tmp_path / "seq2seq")
    TrineForConditionalGeneration.from_pretrained(tmp_path / "seq2seq")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "seq2seq")


def test_others_who_write_checkpoints_get_a_warning_as_in_transformers(tmp_path):
    """Without the name of a class of ours, nothing says what was there."""
    tiny_model(**PLAIN).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    edit(tmp_path, lambda weights: weights.pop(f"model.{NAME}"))
    TrineForCausalLM.from_pretrained(tmp_path)


def test_a_state_dict_that_is_given_may_lack_tensors():
    model = TrineForCausalLM.from_pretrained(None, config=tiny_config(), state_dict={})
    assert not model.get_parameter(f"model.{NAME}").isnan().any()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    tiny_model(**PLAIN).save_pretrained(folder, max_shard_size="20kB")
    return folder


def test_shards_that_contradict_their_index_are_refused(sharded, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(sharded, folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name, file = f"model.{NAME}", index["weight_map"][f"model.{NAME}"]
    other = next(place for place in index["weight_map"].values() if place != file)
    taken = load_file(folder / file)[name]
    edit(folder, lambda weights: weights.update({name: taken + 1}), other)  # as of an older checkpoint
    with pytest.raises(OSError, match=f"{other} has the tensor '{name}', which .*index.json places in {file}"):
        TrineForCausalLM.from_pretrained(folder)
    edit(folder, lambda weights: weights.pop(name), other)
    TrineForCausalLM.from_pretrained(folder)
    edit(folder, lambda weights: weights.pop(name), file)
    with pytest.raises(OSError, match=f"{file} lacks the tensor '{name}', which .*index.json places in {file}"):
        TrineForCausalLM.from_pretrained(folder)
    (folder / file).unlink()
    with pytest.raises(OSError, match=f"{file} is missing, which model.safetensors.index.json names"):
        TrineForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    "place", ["../other.safetensors", "/etc/other.safetensors", "C:\\other.safetensors", "..\\x", ""]
)
def test_an_index_may_not_lead_out_of_its_folder(sharded, tmp_path, place):
    folder = tmp_path / "copy"
    shutil.copytree(sharded, folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"][f"model.{NAME}"] = place
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(OSError, match="names the file '.*', which lies outside of the checkpoint"):
        TrineForCausalLM.from_pretrained(folder)


def test_weights_on_disk_are_no_loss(sharded, tmp_path):
    """As accelerate offloads them."""
    places = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {"model.rotary_emb": "cpu", "model.positions": "cpu"}
    model = TrineForCausalLM.from_pretrained(sharded, device_map=places, offload_folder=tmp_path)
    ids = random_ids(1, 5)
    torch.testing.assert_close(model(ids).logits, TrineForCausalLM.from_pretrained(sharded)(ids).logits)


# Damaged files


@pytest.mark.parametrize("loader", [TrineForCausalLM, AutoModelForCausalLM])
@pytest.mark.parametrize("damage", [truncate, cut_the_header, scribble])
def test_a_damaged_shard_is_named(damage, loader, tmp_path):
    name = damaged_shards(tmp_path, damage)
    with pytest.raises(OSError, match=f"{name} is damaged or incomplete .* load an earlier one"):
        loader.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [('{"a": 1', "' is damaged or incomplete .* Copy or"), ("[1]", "' holds a list"), ("null", "' holds a NoneType")],
)
def test_a_damaged_json_file_is_named(name, content, message, tmp_path):
    damaged_shards(tmp_path, lambda path: None)
    (tmp_path / name).write_text(content)
    with pytest.raises(OSError, match=name + message):
        TrineForCausalLM.from_pretrained(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    name = damaged_shards(tmp_path, lambda path: path.unlink())
    with pytest.raises(OSError, match=name):
        TrineForCausalLM.from_pretrained(tmp_path)


def test_weights_of_another_size_are_named(tmp_path):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 44}))
    with pytest.raises(RuntimeError, match="gate_proj|down_proj|up_proj|ignore_mismatched_sizes"):
        TrineForCausalLM.from_pretrained(tmp_path)


def test_missing_weights_are_reported_and_begin_anew(tmp_path):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"num_hidden_layers": 3, "attention_types": ["full"] * 3, "mlp_layer_types": ["dense"] * 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, info = TrineForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] and all("layers.2." in key for key in info["missing_keys"])
    assert all(parameter.isfinite().all() for parameter in model.parameters())
