"""Errors of models that no single call of a tiny model shows, as messages."""

import pytest
import torch
from support.recurrent import tiny_model as tiny_recurrent
from support.tiny import SIZES, random_ids, tiny_model
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from trine import TrineSeq2SeqConfig, TrineSeq2SeqModel
from trine.modeling.caches.scanned import ScannedCacheLayer
from trine.modeling.outputs import TrineModelOutput


def state_taken_back() -> str:
    """What the cache of a `StateAttention` says when a token is to go that it did not record."""
    layer, states = ScannedCacheLayer(), torch.zeros(1, 1, 3, 2)
    layer.update(states, states, inputs=(states,), scan=lambda state, states: (states, ()))
    with pytest.raises(RuntimeError) as caught:
        layer.crop(-1)
    return str(caught.value)


def too_many_arguments() -> str:
    """What a head says to more arguments without names than it has."""
    with pytest.raises(TypeError) as caught:
        tiny_model()(random_ids(1, 3), *[None] * 20)
    return str(caught.value)


def masks_of_a_source() -> str:
    """What an encoder-decoder says to a dict of masks for its source."""
    model = TrineSeq2SeqModel(TrineSeq2SeqConfig(encoder=SIZES, decoder=SIZES))
    with pytest.raises(ValueError) as caught:
        model(random_ids(1, 3), attention_mask={"full_attention": None}, decoder_input_ids=random_ids(1, 3))
    return str(caught.value)


def other_transformers(monkeypatch) -> list[str]:
    """What models say under a transformers whose outputs have a `cache`."""
    messages = []
    for output, make in ((TrineModelOutput, tiny_model), (BaseModelOutputWithPastAndCrossAttentions, tiny_recurrent)):
        with monkeypatch.context() as patch:
            patch.setitem(output.__dataclass_fields__, "cache", None)
            with pytest.raises(ImportError, match="transformers 5.24 gives caches another name") as caught:
                make()
        messages.append(str(caught.value))
    return messages
