"""Simplicial layers return the weights of both keys, in every shape, and they are probabilities within the windows."""

import pytest
import torch
from support.tiny import SIZES, random_ids, tiny_model

from trine import TrineForCausalLM, TrineForConditionalGeneration, TrineForMaskedLM, TrineSeq2SeqConfig
from trine.modeling.kernels.simplicial.forms import make_window


FIELDS = {"attention_types": "full, simplicial", "simplicial_window": 5, "simplicial_second_window": 3}


def check(attentions, second_attentions, length, is_causal):
    assert len(attentions) == 2 and len(second_attentions) == 1
    distances = torch.arange(length)[:, None] - torch.arange(length)
    for weights, window in ((attentions[1], 5), (second_attentions[0], 3)):
        assert weights.shape == (2, SIZES["num_attention_heads"], length, length)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        reach = make_window(window, is_causal)
        seen = (distances <= reach.left) & (distances >= -reach.right)
        assert bool(((weights > 0) == seen).all())


@pytest.mark.parametrize("head", [TrineForCausalLM, TrineForMaskedLM])
def test_one_stack(head):
    is_causal = head is TrineForCausalLM
    model = tiny_model(head, attn="eager", **FIELDS, is_causal=is_causal, scale=1.0)
    outputs = model(random_ids(2, 8), output_attentions=True)
    check(outputs.attentions, outputs.second_attentions, 8, is_causal)
    assert "second_attentions" not in model(random_ids(2, 8))
    plain = tiny_model(head, attn="eager", is_causal=is_causal)
    assert "second_attentions" not in plain(random_ids(2, 8), output_attentions=True)


def test_two_stacks():
    config = TrineSeq2SeqConfig(
        encoder={**SIZES, **FIELDS}, decoder={**SIZES, **FIELDS}, attn_implementation="eager", decoder_start_token_id=1
    )
    model = TrineForConditionalGeneration(config).eval()
    outputs = model(input_ids=random_ids(2, 8), decoder_input_ids=random_ids(2, 7), output_attentions=True)
    check(outputs.encoder_attentions, outputs.encoder_second_attentions, 8, False)
    check(outputs.decoder_attentions, outputs.decoder_second_attentions, 7, True)
