"""The configuration of the recurrent models derives, validates, names what is wrong, and survives JSON."""

import dataclasses
import inspect
import json
import logging

import pytest
from support.messages import unseen
from support.recurrent import tiny_config
from support.recurrent_errors import CONFIG_ERRORS
from transformers import AutoConfig, PreTrainedConfig

from trine.configuration.configuration_trine_recurrent import TrineRecurrentConfig


OWN_FIELDS = [name for name in TrineRecurrentConfig.__annotations__ if not name.startswith("_")]
VALUES = {
    "vocab_size": 99,
    "hidden_size": 15,
    "num_hidden_layers": 3,
    "bidirectional_encoder": False,
    "attention": "none",
    "hidden_dropout": 0.3,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "is_encoder_decoder": True,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 4,
    "eos_token_id": [2, 3],
    "decoder_start_token_id": 7,
    "loss_chunk_size": None,
    "export_code": False,
}


@pytest.mark.parametrize("case", CONFIG_ERRORS)
def test_a_bad_field_is_named(case):
    fields, message = CONFIG_ERRORS[case]
    with pytest.raises(ValueError) as caught:
        TrineRecurrentConfig(**fields)
    assert str(caught.value) == message


def test_every_error_of_the_configuration_is_tested():
    places = unseen("configuration", [message for _, message in CONFIG_ERRORS.values()])
    assert [place for place in places if "recurrent" in place] == []


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"hidden_size": "512"}, "hidden_size"),
        ({"bidirectional_encoder": "yes"}, "bidirectional_encoder"),
        ({"attention": None}, "attention"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(fields, name):
    with pytest.raises(Exception, match=name):
        TrineRecurrentConfig(**fields)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", 7, "hidden_size=7 must be even"),
        ("attention", "luong", "attention='luong' is not one of ['none', 'dot']."),
    ],
)
def test_a_change_is_checked_before_saving(field, value, message, tmp_path):
    config = tiny_config()
    setattr(config, field, value)
    for check in (config.check, config.validate_architecture, lambda: config.save_pretrained(tmp_path)):
        with pytest.raises(Exception) as caught:
            check()
        chain = [str(caught.value), str(caught.value.__cause__)]
        assert any(text.startswith(message) for text in chain), chain


def test_defaults_are_silent_and_complete(caplog):
    with caplog.at_level(logging.WARNING):
        config = TrineRecurrentConfig()
    assert not caplog.records
    assert (config.is_encoder_decoder, config.attention, config.bidirectional_encoder) == (True, "dot", True)
    assert config.decoder_start_token_id is None and config.get_text_config(decoder=True).hidden_size == 512


def test_the_decoder_starts_with_the_beginning_of_a_text_unless_told():
    assert TrineRecurrentConfig(bos_token_id=5).decoder_start_token_id == 5
    assert TrineRecurrentConfig(bos_token_id=0, pad_token_id=5).decoder_start_token_id == 0
    assert TrineRecurrentConfig(pad_token_id=5).decoder_start_token_id == 5
    assert TrineRecurrentConfig(bos_token_id=5, decoder_start_token_id=0).decoder_start_token_id == 0


@pytest.mark.parametrize("use_diff", [True, False])
def test_json_gives_the_config_back(use_diff, tmp_path):
    assert list(VALUES) == OWN_FIELDS
    config = TrineRecurrentConfig(**VALUES)
    text = config.to_json_string(use_diff=use_diff)
    assert TrineRecurrentConfig(**json.loads(text)).to_dict() == config.to_dict()
    config.save_pretrained(tmp_path)
    for loaded in (TrineRecurrentConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is TrineRecurrentConfig
        assert {field: getattr(loaded, field) for field in VALUES} == VALUES
    assert PreTrainedConfig.from_pretrained(tmp_path).attention == "none", "`Trainer` reads it so when it resumes"


def test_a_note_in_the_file_is_kept_with_a_warning(tmp_path, caplog):
    config = tiny_config(export_code=False)
    config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        loaded = TrineRecurrentConfig.from_pretrained(tmp_path)
    assert loaded.colour == "red" and loaded.hidden_size == config.hidden_size
    assert "TrineRecurrentConfig has no field 'colour'. It is kept in the config, but changes nothing." in caplog.text


def test_every_field_is_documented_and_every_documented_field_exists():
    documented = [
        line.strip().split(":")[0]
        for line in inspect.getdoc(TrineRecurrentConfig).split("Args:")[1].split("Raises:")[0].splitlines()
        if line.startswith("    ") and not line.startswith("     ")
    ]
    assert documented == OWN_FIELDS
    assert set(OWN_FIELDS) <= {field.name for field in dataclasses.fields(TrineRecurrentConfig)}
