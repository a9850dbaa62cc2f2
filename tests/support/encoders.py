"""An encoder like BERT, and what a decoder behind it needs."""

from support.tiny import GPT2, tiny_model

from trine import TrineModel


BERT = {**GPT2, "is_causal": False, "norm_position": "post", "pad_token_id": 0, "add_pooling_layer": True}
MORE = {"eos_token_id": 2, "decoder_start_token_id": 1}


def encoder(**fields):
    return tiny_model(TrineModel, **{**BERT, **fields})
