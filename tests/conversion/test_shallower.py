"""A stack that keeps some of its layers, beside the states that the whole one has on its way."""

import re

import pytest
import torch
from support.tiny import GPT2, random_ids, tiny_model
from support.translators import tiny_translator

from trine import TrineForCausalLM, TrineForMaskedLM, TrineModel, lift


POST_NORM = {**GPT2, "is_causal": False, "pad_token_id": 0, "norm_position": "post", "num_hidden_layers": 4}


@pytest.mark.parametrize("kept", [[0], [0, 1], [0, 1, 2, 3]])
def test_the_first_layers_give_their_states(kept):
    model, ids = tiny_model(TrineModel, **POST_NORM), random_ids(2, 9)
    lifted = lift(model, "shallower", layers=kept)
    states = model(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(lifted(ids).last_hidden_state, states[len(kept)], rtol=0, atol=0)
    assert lifted.config.num_hidden_layers == len(kept) == len(lifted.config.attention_types)


def test_chosen_layers_in_another_order_with_their_kinds_and_the_head():
    model = tiny_model(
        TrineForCausalLM, num_hidden_layers=3, attention_types=["full", "sliding", "full"], sliding_window=4
    )
    lifted = lift(model, "shallower", layers=[2, 1])
    assert lifted.config.attention_types == ["full", "sliding"] and type(lifted) is TrineForCausalLM
    new, old = lifted.state_dict(), model.state_dict()
    for place, source in enumerate([2, 1]):
        name = "self_attn.q_proj.weight"
        assert torch.equal(new[f"model.layers.{place}.{name}"], old[f"model.layers.{source}.{name}"])
    assert torch.equal(new["lm_head.weight"], old["lm_head.weight"])


def test_one_stack_of_two(tmp_path):
    lifted = lift(tiny_translator(), "shallower", layers=[1], stack="decoder")
    assert (lifted.config.encoder.num_hidden_layers, lifted.config.decoder.num_hidden_layers) == (2, 1)
    lifted.save_pretrained(tmp_path)
    again = type(lifted).from_pretrained(tmp_path)
    assert again.state_dict().keys() == lifted.state_dict().keys()


def test_it_trains_on():
    lifted = lift(tiny_model(TrineForMaskedLM, **POST_NORM), "shallower", layers=[0, 1])
    lifted(random_ids(2, 9), labels=random_ids(2, 9)).loss.backward()
    assert all(weight.grad is not None for name, weight in lifted.named_parameters() if "layers" in name)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (None, "layers=None names no layer to keep, of 0 to 1."),
        ([0, 2], "layers[1]=2 is no layer of the model, which has 0 to 1."),
    ],
)
def test_errors(layers, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        lift(tiny_model(), "shallower", layers=layers)
