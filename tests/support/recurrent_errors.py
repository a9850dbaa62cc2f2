"""Every error of the recurrent configuration and models: how it is made, and the message that it must have."""

import torch
from support.recurrent import random_ids, tiny_config, tiny_model
from transformers import DynamicCache

from trine.configuration.configuration_trine_recurrent import TrineRecurrentConfig
from trine.modeling.modeling_trine_recurrent import TrineRecurrentForConditionalGeneration, TrineRecurrentModel


# Name to fields that are wrong, and the message.
CONFIG_ERRORS = {
    **{f"{f}=0": ({f: 0}, f"{f}=0 must be at least 1.") for f in ("vocab_size", "hidden_size", "num_hidden_layers")},
    "odd": (
        {"hidden_size": 15},
        "hidden_size=15 must be even for bidirectional_encoder=True, which gives each direction half of it.",
    ),
    "attention": ({"attention": "dott"}, "attention='dott' is not one of ['none', 'dot']. Did you mean 'dot'?"),
    "dropout": ({"hidden_dropout": 1.0}, "hidden_dropout=1.0 must be at least 0 and below 1."),
    "negative dropout": ({"hidden_dropout": -0.1}, "hidden_dropout=-0.1 must be at least 0 and below 1."),
    "initializer": ({"initializer_range": 0}, "initializer_range=0 must be above 0."),
    "chunk": ({"loss_chunk_size": 0}, "loss_chunk_size=0 must be at least 1, or None for ordinary logits."),
    "shape": (
        {"is_encoder_decoder": False},
        "is_encoder_decoder=False: a recurrent model always has an encoder and a decoder.",
    ),
    "pad": ({"pad_token_id": 32000}, "pad_token_id=32000 must lie in the vocabulary, 0 to 31999."),
    "eos": ({"eos_token_id": [2, -1]}, "eos_token_id=[2, -1] must lie in the vocabulary, 0 to 31999."),
    "start": (
        {"decoder_start_token_id": -1},
        "decoder_start_token_id=-1 must lie in the vocabulary, 0 to 31999.",
    ),
    "misspelt": (
        {"hidden_sise": 64},
        "TrineRecurrentConfig has no field 'hidden_sise'. Did you mean 'hidden_size'?",
    ),
    "another library's": (
        {"dropout": 0.1},
        "TrineRecurrentConfig has no field 'dropout'. Did you mean 'hidden_dropout'?",
    ),
}


def changed(config, **fields):
    """The config, with fields that were set after it was made."""
    for field, value in fields.items():
        setattr(config, field, value)
    return config


def model_errors() -> dict:
    """Name to a call that raises a `ValueError`, and its message."""
    model, ids = tiny_model(), random_ids(2, 3)
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    tuple_outputs = model.get_encoder()(ids, return_dict=False)
    return {
        "no source": (
            lambda: model(decoder_input_ids=ids),
            "Exactly one of input_ids and inputs_embeds must be given.",
        ),
        "no target": (
            lambda: model(ids),
            "Exactly one of decoder_input_ids and decoder_inputs_embeds must be given.",
        ),
        "beyond the vocabulary": (
            lambda: model(ids, decoder_input_ids=torch.tensor([[3, 41]])),
            "decoder_input_ids hold values from 3 to 41, but vocab_size=41 allows 0 to 40.",
        ),
        "empty row": (
            lambda: model(ids, attention_mask=mask, decoder_input_ids=ids),
            "attention_mask[1] has no token, of which an LSTM needs one at least.",
        ),
        "mask shape": (
            lambda: model(ids, decoder_input_ids=ids, decoder_attention_mask=mask[:, :2]),
            "decoder_attention_mask has shape (2, 2), but the tokens have (2, 3).",
        ),
        "cache": (
            lambda: model(ids, decoder_input_ids=ids, past_key_values=DynamicCache()),
            "past_key_values is a DynamicCache, but must be the TrineRecurrentCache of an earlier call.",
        ),
        "encoder outputs": (
            lambda: model(encoder_outputs=tuple_outputs, decoder_input_ids=ids),
            "encoder_outputs is a tuple without final_hidden and final_cell, but must be what get_encoder() returns "
            "with return_dict=True.",
        ),
        "crop": (
            lambda: model(ids, decoder_input_ids=ids).past_key_values.crop(-1),
            "tokens_to_remove=-1 must be 0: an LSTM does not keep its past states.",
        ),
        "start token": (
            lambda: TrineRecurrentForConditionalGeneration(TrineRecurrentConfig(vocab_size=41, hidden_size=4))(
                ids, labels=ids
            ),
            "decoder_start_token_id=None and pad_token_id=None are both needed to make decoder_input_ids from labels; "
            "set them in the config.",
        ),
        "pad token": (
            lambda: tiny_model(pad_token_id=None)(ids, labels=ids),
            "decoder_start_token_id=1 and pad_token_id=None are both needed to make decoder_input_ids from labels; "
            "set them in the config.",
        ),
        "changed config": (
            lambda: TrineRecurrentModel(changed(tiny_config(), hidden_size=13)),
            "hidden_size=13 must be even for bidirectional_encoder=True, which gives each direction half of it.",
        ),
    }
