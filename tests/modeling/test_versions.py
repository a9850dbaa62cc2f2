"""Versions of transformers that would compute something else are refused."""

import pytest
from support.recurrent import tiny_model
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from trine import TrineConfig, TrineForCausalLM
from trine.modeling.outputs import TrineModelOutput


def test_a_version_that_hands_caches_over_by_another_name_is_refused(monkeypatch):
    """`generate` of 5.24 would begin a new cache in each step."""
    for output in (TrineModelOutput, BaseModelOutputWithPastAndCrossAttentions):
        monkeypatch.setitem(output.__dataclass_fields__, "cache", None)
    with pytest.raises(ImportError, match="transformers 5.24 gives caches another name"):
        TrineForCausalLM(TrineConfig(vocab_size=8, hidden_size=8, num_attention_heads=2, num_hidden_layers=1))
    with pytest.raises(ImportError, match="transformers 5.24 gives caches another name"):
        tiny_model()
