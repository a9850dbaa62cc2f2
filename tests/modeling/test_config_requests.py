"""Fields of a config that ask for other outputs, as those of transformers' own models do."""

import pytest
import torch
from support.recurrent import tiny_model as tiny_recurrent

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForSequenceClassification,
    TrineSeq2SeqConfig,
)


SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}


def pair(**fields) -> TrineForConditionalGeneration:
    config = TrineSeq2SeqConfig(
        encoder={**SIZES}, decoder={**SIZES}, pad_token_id=0, decoder_start_token_id=1, **fields
    )
    return TrineForConditionalGeneration(config).eval()


def decoder(**fields) -> TrineForCausalLM:
    return TrineForCausalLM(TrineConfig(**SIZES, **fields)).eval()


def classifier(**fields) -> TrineForSequenceClassification:
    return TrineForSequenceClassification(TrineConfig(**SIZES, **fields)).eval()


IDS = torch.tensor([[3, 4, 5], [5, 4, 3]])
MAKERS = {"pair": pair, "decoder": decoder, "classifier": classifier, "lstm": tiny_recurrent}


@pytest.mark.parametrize("name", MAKERS)
def test_return_dict_of_a_config_is_that_of_the_call(name):
    inputs = {"input_ids": IDS} | ({"decoder_input_ids": IDS} if name in ("pair", "lstm") else {})
    made = MAKERS[name](return_dict=False)
    found, told = made(**inputs), made(**inputs, return_dict=True)
    assert type(found) is tuple and torch.equal(found[0], told.logits)


def test_an_encoder_decoder_records_what_its_config_asks_for():
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS}
    found = pair(output_hidden_states=True)(**inputs)
    assert len(found.encoder_hidden_states) == len(found.decoder_hidden_states) == 3
    assert pair(output_hidden_states=True)(**inputs, output_hidden_states=False).encoder_hidden_states is None
    found = pair(output_attentions=True, attn_implementation="eager")(**inputs)
    assert len(found.encoder_attentions) == len(found.decoder_attentions) == len(found.cross_attentions) == 2
