"""Experts whose widths the grouped kernel cannot read are computed all the same, or refused when the model is made."""

import logging

import pytest
import torch
from support.tiny import SPARSE, random_ids, tiny_config, tiny_model

from trine import TrineForCausalLM
from trine.modeling import modeling_trine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "sizes", [{"moe_intermediate_size": 13}, {"hidden_size": 36, "head_dim": 8}, {"moe_intermediate_size": 4}]
)
def test_widths_that_the_grouped_kernel_cannot_read_take_another(sizes, dtype, caplog):
    logging.getLogger("transformers").propagate = True
    modeling_trine.logger.warning_once.cache_clear()
    config = tiny_config(**{**SPARSE, **sizes})
    with caplog.at_level("WARNING"):
        model = TrineForCausalLM(config).to(dtype)
    assert model.config._experts_implementation == "eager"
    field, value = next(iter(sizes.items()))
    assert f"'eager' is used, as 'grouped_mm' cannot be: {field}={value} is not a multiple of 8." in caplog.text
    loss = model(random_ids(2, 7), labels=random_ids(2, 7)).loss
    loss.backward()
    assert loss.isfinite()
    with pytest.raises(ValueError, match=f"'grouped_mm' cannot compute these experts: {field}={value} is not"):
        model.set_experts_implementation("grouped_mm")


def test_experts_in_double_precision(tmp_path):
    """The grouped kernel has none. A dense model and the parent of two stacks have no experts that it could refuse."""
    tiny_model(**SPARSE).save_pretrained(tmp_path)
    model = TrineForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.float64 and model(random_ids(1, 4)).logits.isfinite().all()
    dense = TrineForCausalLM(tiny_config(hidden_size=36, num_attention_heads=3, num_key_value_heads=1))
    assert dense.config._experts_implementation == "grouped_mm"
