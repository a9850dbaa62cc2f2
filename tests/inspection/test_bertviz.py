"""BertViz draws what our models return: its views hold the weights and the tokens."""

import json

import pytest
import torch
from support.tiny import SIZES, random_ids, tiny_model

from trine import TrineForConditionalGeneration, TrineForMaskedLM, TrineSeq2SeqConfig


bertviz = pytest.importorskip("bertviz", reason="BertViz is not installed")
VIEWS = ["head_view", "model_view"]
KINDS = {"attention_types": "full, simplicial"}


def shown(view, **parts) -> list[dict]:
    """The data of each attention in the HTML of a view."""
    html = getattr(bertviz, view)(html_action="return", **parts).data
    parameters = html.split("const params = ", 1)[1]
    return json.JSONDecoder().raw_decode(parameters)[0]["attention"]


def assert_shown(data, weights, left, right):
    assert data["left_text"] == left and data["right_text"] == right
    torch.testing.assert_close(torch.tensor(data["attn"]), torch.stack([each[0] for each in weights]).float())


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("head", [None, TrineForMaskedLM], ids=["decoder", "encoder"])
def test_one_stack(view, head):
    model = tiny_model(head, attn="eager", **KINDS, is_causal=head is None)
    ids, tokens = random_ids(1, 6), list("abcdef")
    outputs = model(ids, output_attentions=True)
    (data,) = shown(view, attention=outputs.attentions, tokens=tokens)
    assert_shown(data, outputs.attentions, tokens, tokens)
    (data,) = shown(view, attention=outputs.second_attentions, tokens=tokens)
    assert_shown(data, outputs.second_attentions, tokens, tokens)


@pytest.mark.parametrize("view", VIEWS)
def test_two_stacks(view):
    config = TrineSeq2SeqConfig(encoder=SIZES, decoder=SIZES, attn_implementation="eager", decoder_start_token_id=1)
    model = TrineForConditionalGeneration(config).eval()
    source, target = list("abcdef"), list("wxyz")
    outputs = model(input_ids=random_ids(1, 6), decoder_input_ids=random_ids(1, 4), output_attentions=True)
    parts = {name: outputs[name] for name in ("encoder_attentions", "decoder_attentions", "cross_attentions")}
    data = shown(
        view,
        encoder_attention=parts["encoder_attentions"],
        decoder_attention=parts["decoder_attentions"],
        cross_attention=parts["cross_attentions"],
        encoder_tokens=source,
        decoder_tokens=target,
    )
    sides = [(source, source), (target, target), (target, source)]
    for each, weights, (left, right) in zip(data, parts.values(), sides, strict=True):
        assert_shown(each, weights, left, right)
