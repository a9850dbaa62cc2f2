"""What other libraries look for in the config of an encoder-decoder is there, and says what the decoder's says."""

import json

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from support.tiny import SIZES, random_ids
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from trine import TrineForConditionalGeneration, TrineSeq2SeqConfig


T5 = {
    "vocab_size": 61,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
BART = {"vocab_size": 61, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "decoder_start_token_id": 2}
READ = {  # of a decoder that differs from its encoder in all but the width
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 12,
}


def config_of(**decoder) -> TrineSeq2SeqConfig:
    return TrineSeq2SeqConfig(encoder=SIZES, decoder={**SIZES, **decoder}, pad_token_id=0, decoder_start_token_id=0)


def test_sizes_are_read_and_written_once():
    config = config_of(**READ)
    assert {name: getattr(config, name) for name in READ} == READ
    assert READ.items() <= config.to_dict().items() and READ.items() <= config.decoder.to_dict().items()
    assert not READ.keys() & json.loads(config.to_json_string(use_diff=True)).keys()
    for again in (TrineSeq2SeqConfig.from_dict(config.to_dict()), TrineSeq2SeqConfig(**config.to_dict())):
        assert again.to_dict() == config.to_dict()
    wide = TrineSeq2SeqConfig.from_dict(config.to_dict(), hidden_size=48)
    assert (wide.hidden_size, wide.encoder.hidden_size, wide.to_dict()["hidden_size"]) == (48, 48, 48)


def test_sizes_are_given_to_the_stacks():
    with pytest.raises(ValueError, match="TrineSeq2SeqConfig has no field 'hidden_size'"):
        TrineSeq2SeqConfig(encoder=SIZES, decoder=SIZES, hidden_size=48)


@pytest.mark.parametrize("config_class", [PromptTuningConfig, PrefixTuningConfig])
@pytest.mark.parametrize("make", [lambda: T5ForConditionalGeneration(T5Config(**T5)), None], ids=["T5", "Trine"])
def test_prompts_and_prefixes_have_their_sizes_from_there(make, config_class):
    model = make() if make else TrineForConditionalGeneration(config_of(**READ))
    adapted = get_peft_model(model, config_class(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3)).train()
    ids = random_ids(2, 9)
    adapted(input_ids=ids, labels=ids).loss.backward()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad is not None and parameter.grad.any() for parameter in trained)


def test_a_width_is_asked_for_where_there_are_two():
    config = TrineSeq2SeqConfig(encoder={**SIZES, "hidden_size": 48}, decoder=SIZES, share_embeddings=False)
    model = TrineForConditionalGeneration(config)
    with pytest.raises(ValueError, match="Please specify `token_dim`"):
        get_peft_model(model, PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3))


@pytest.mark.parametrize(
    "make", [lambda: BartForConditionalGeneration(BartConfig(**BART)), None], ids=["BART", "Trine"]
)
def test_a_trainer_turns_the_cache_off(make, tmp_path):
    """It sets the field of the whole."""
    model = make() if make else TrineForConditionalGeneration(config_of())
    ids = random_ids(2, 9)
    with torch.no_grad():
        assert model(input_ids=ids, decoder_input_ids=ids).past_key_values is not None
        Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True))
        assert model.config.use_cache is False
        assert model(input_ids=ids, decoder_input_ids=ids).past_key_values is None
        assert model(input_ids=ids, decoder_input_ids=ids, use_cache=True).past_key_values is not None
