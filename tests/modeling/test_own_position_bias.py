"""Attention whose layers add to the scores by position, beside ALiBi as a position encoding of all layers."""

import shutil
from pathlib import Path

import pytest
import torch
from support.plugins import tables_restored
from support.tiny import random_ids, tiny_model

from trine import PairwiseAttention, TrineForCausalLM, TrineForMaskedLM, load_plugin, register_attention
from trine.testing import check_mechanism


ALIBI = Path(__file__).parents[2] / "docs" / "examples" / "alibi.py"


@pytest.fixture(autouse=True)
def slopes(tmp_path):
    """Registers `falling`, in which every layer subtracts distances times slopes, and the encoding `alibi`."""
    with tables_restored():
        alibi = load_plugin(shutil.copy(ALIBI, tmp_path))

        class Falling(PairwiseAttention):
            def position_bias(self, query_positions, key_positions):
                slopes = alibi.slopes(self.config.num_attention_heads).to(self.q_proj.weight.dtype)
                return -(slopes * (query_positions[:, None] - key_positions).abs())[None]

        register_attention("falling", Falling, shareable=False)
        yield


def models(cls, weight, **fields):
    """A model with the layers' own bias beside that of its positions, and one of full attention with `alibi` alone."""
    positions = "alibi" if weight == 2 else "none"
    own = tiny_model(cls, attention_types="falling", position_type=positions, pad_token_id=0, **fields)
    shared = tiny_model(cls, attention_types="full", position_type="alibi", pad_token_id=0, **fields)
    shared.load_state_dict(own.state_dict())
    (encoding,) = [part for part in shared.modules() if type(part).__name__ == "AlibiEncoding"]
    encoding.slopes *= weight
    return own, shared


@pytest.mark.parametrize("weight", [1, 2], ids=["alone", "beside that of the positions"])
@pytest.mark.parametrize("is_causal", [True, False])
def test_it_equals_the_same_bias_of_all_layers(weight, is_causal):
    own, shared = models(TrineForCausalLM if is_causal else TrineForMaskedLM, weight, is_causal=is_causal)
    ids, mask = random_ids(2, 13), torch.ones(2, 13, dtype=torch.long)
    mask[0, :4] = mask[1, 9:] = 0
    found, expected = (model(ids, attention_mask=mask, use_cache=False).logits[mask == 1] for model in (own, shared))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    apart = torch.cat([torch.arange(8), torch.arange(5)])[None]
    found, expected = (model(ids[:1], position_ids=apart, use_cache=False).logits for model in (own, shared))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"num_beams": 3}], ids=str)
def test_it_generates_the_same(options):
    own, shared = models(TrineForCausalLM, 1)
    ids, mask = random_ids(2, 7), torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    options = {**options, "max_new_tokens": 9, "do_sample": False, "attention_mask": mask}
    assert own.generate(ids, **options).tolist() == shared.generate(ids, **options).tolist()


def test_it_passes_the_checks():
    rows = check_mechanism("falling", skip=["compilation", "sharing", "overfitting", "cost"])
    assert [row for row in rows if not row.passed] == []


def test_its_arguments_are_checked():
    class Lone(PairwiseAttention):
        def position_bias(self, distance):
            return distance

    with pytest.raises(
        ValueError, match=r"position_bias\(self, distance\) cannot be called as \(self, query_positions"
    ):
        register_attention("lone", Lone, shareable=False)
