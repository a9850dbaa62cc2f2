"""What layers of registered mechanisms return is checked whenever they are run."""

import pytest
import torch
from support.messages import unseen
from support.plugin_errors import REFUSED, refused
from support.plugins import tables_restored
from torch import nn

from trine import TrineConfig, TrineForCausalLM, register_attention, register_feed_forward


SIZES = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
PAIR = "mechanism.forward must return (output, weights or None), the output of its input's shape"
TENSOR = "mechanism.forward must return a tensor of its input's shape"
# What a layer makes of its input, (1, 3, 8), the error, and what it says after how to do it.
RETURNED = {
    "bare tensor": (register_attention, lambda x: x, TypeError, f"{PAIR}, and not a Tensor."),
    "list": (register_attention, lambda x: [x, None], TypeError, f"{PAIR}, and not a list."),
    "three": (register_attention, lambda x: (x, x, 1), TypeError, f"{PAIR}, and not a tuple (Tensor, Tensor, int)."),
    "no tensor": (register_attention, lambda x: (1, x), TypeError, f"{PAIR}, and not a tuple (int, Tensor)."),
    "too short": (
        register_attention,
        lambda x: (x[:, :1], None),
        ValueError,
        f"{PAIR}, which is (1, 3, 8), and not (1, 1, 8).",
    ),
    "pair": (register_feed_forward, lambda x: (x, None), TypeError, f"{TENSOR}, and not a tuple (Tensor, NoneType)."),
    "nothing": (register_feed_forward, lambda x: None, TypeError, f"{TENSOR}, and not a NoneType."),
    "narrow": (
        register_feed_forward,
        lambda x: x[..., :1],
        ValueError,
        f"{TENSOR}, which is (1, 3, 8), and not (1, 3, 1).",
    ),
}
FIELDS = {register_attention: "attention_types", register_feed_forward: "mlp_layer_types"}


@pytest.fixture(autouse=True)
def forgotten():
    with tables_restored():
        yield


def run_one_that_returns(case: str) -> str:
    register, make, error, _ = RETURNED[case]

    @register("mine", shareable=False)
    class mechanism(nn.Module):
        def __init__(self, config, layer_idx=0):
            super().__init__()

        def forward(self, hidden_states, *args, **kwargs):
            return make(hidden_states)

    mechanism.__qualname__ = "mechanism"
    model = TrineForCausalLM(TrineConfig(**SIZES, **{FIELDS[register]: "mine"}))
    with pytest.raises(error) as caught:
        model(torch.tensor([[3, 4, 5]]))
    return str(caught.value)


@pytest.mark.parametrize("case", RETURNED)
def test_what_is_returned_wrongly_is_an_error(case):
    assert run_one_that_returns(case) == RETURNED[case][-1]


def test_every_error_of_registration_is_tested():
    messages = [refused(name) for name in REFUSED] + [message for *_, message in RETURNED.values()]
    places = unseen("modeling", messages)
    assert [place for place in places if place.startswith(("modeling/registration", "modeling/returned"))] == []
