"""Sliding and chunked attention by blocks of a band against the masked full product, and what the band costs."""

import pytest
import torch
from support.tiny import output_of, random_ids, tiny_model
from transformers import DynamicCache, StaticCache

from trine.configuration.kinds import ATTENTION_KINDS
from trine.modeling.kernels.blocks.banded import BandedMask
from trine.modeling.masks import masks


CAUSAL = pytest.mark.parametrize("is_causal", [True, False], ids=["decoder", "encoder"])
KIND = pytest.mark.parametrize("kind", ["sliding", "chunked"])
LENGTH = 101
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def padding(name: str) -> dict:
    """Arguments of a forward pass over two rows, and which tokens count."""
    index = torch.arange(LENGTH)
    masks = {
        "left": torch.stack([index >= 13, index >= 0]),
        "right": torch.stack([index < 70, index < 99]),
        "holes": torch.stack([(index % 7 != 3) & (index >= 5), index % 11 != 2]),
    }
    if name in masks:
        return {"attention_mask": masks[name].long()}
    starts = torch.stack([index % 37, torch.where(index < 20, index, index - 20)])
    return {"position_ids": {"packed": starts, "shifted": index.expand(2, -1) + 5}[name]}


def model_for(kind: str, is_causal: bool, **fields):
    position_type = fields.pop("position_type", "none")
    return tiny_model(attention_types=kind, is_causal=is_causal, position_type=position_type, **fields)


def run(model, attn: str, arguments: dict) -> torch.Tensor:
    model.set_attn_implementation(attn)
    return output_of(model(random_ids(2, LENGTH), use_cache=False, **arguments))


@CAUSAL
@KIND
@pytest.mark.parametrize("case", ["none", "left", "right", "holes", "packed", "shifted"])
@pytest.mark.parametrize("window", [1, 8, 19])
def test_the_band_equals_the_masked_product(window, case, kind, is_causal):
    model = model_for(kind, is_causal, **{ATTENTION_KINDS[kind].window_field: window})
    arguments = {} if case == "none" else padding(case)
    real = arguments.get("attention_mask", torch.ones(2, LENGTH)) == 1
    actual, expected = run(model, "sdpa", arguments), run(model, "eager", arguments)
    torch.testing.assert_close(actual[real], expected[real], **EXACT)
    assert actual.isfinite().all()


@KIND
def test_padding_that_sees_no_token_is_the_same_with_every_cache(kind):
    """So that a text that ends in padding is continued alike. Its gradients are finite, too."""
    model = model_for(kind, True, **{ATTENTION_KINDS[kind].window_field: 2}, attn="sdpa")
    ids, mask = random_ids(2, LENGTH), padding("right")["attention_mask"]
    expected = model(ids, attention_mask=mask, use_cache=False).logits
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=LENGTH + 9)):
        with torch.no_grad():
            actual = model(ids, attention_mask=mask, past_key_values=cache, use_cache=True).logits
        torch.testing.assert_close(actual, expected.detach(), **EXACT)
    expected.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@CAUSAL
@KIND
def test_gradients_are_those_of_the_masked_product(kind, is_causal):
    model, arguments = model_for(kind, is_causal), padding("left")
    real = arguments["attention_mask"] == 1
    grads = []
    for attn in ("sdpa", "eager"):
        model.zero_grad()
        run(model, attn, arguments)[real].square().sum().backward()
        grads.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in grads[0].items():
        torch.testing.assert_close(gradient, grads[1][name], rtol=1e-8, atol=1e-8)


def made_masks(kind: str, length: int, **fields) -> dict:
    model = tiny_model(attention_types=kind, attn="sdpa", **fields)
    return masks.make_masks(model.config, torch.empty(1, length, 32), None, None, None)


@CAUSAL
@pytest.mark.parametrize(("kind", "width"), [("sliding", 48), ("chunked", 8)])
def test_the_band_grows_with_the_text(kind, width, is_causal):
    for length in (200, 1600):
        (visibility,) = made_masks(kind, length, is_causal=is_causal).values()
        assert isinstance(visibility.band, BandedMask)
        assert visibility.band.visible.numel() <= (length + 16) * width


@KIND
@pytest.mark.parametrize(
    "fields", [{"position_type": "relative"}, {"sliding_window": 200, "attention_chunk_size": 200}]
)
def test_where_no_band_serves_there_is_a_table_of_pairs(fields, kind):
    assert all(visibility.band is None for visibility in made_masks(kind, LENGTH, **fields).values())


@KIND
def test_dropout_acts_on_the_weights_of_the_band(kind):
    """Values are all ones, so that without dropout the mixed tokens are, and with it their mean over many stays so."""
    model = model_for(kind, True, attention_dropout=0.4, num_hidden_layers=1)
    layer = model.model.layers[0].self_attn
    torch.nn.init.eye_(layer.o_proj.weight)
    with torch.no_grad():
        layer.v_proj.weight.zero_()
    layer.v_proj.bias = torch.nn.Parameter(torch.ones(16, dtype=torch.float64))
    model.set_attn_implementation("sdpa")
    (visibility,) = masks.make_masks(model.config, torch.empty(1, LENGTH, 32), None, None, None).values()
    states = torch.randn(1, LENGTH, 32, dtype=torch.float64)
    torch.testing.assert_close(layer(states, visibility)[0], torch.ones_like(states))
    layer.train()
    mixed = torch.cat([layer(states, visibility)[0] for _ in range(40)])
    assert mixed.std() > 0.1 and abs(mixed.mean() - 1) < 0.02


@KIND
def test_the_band_compiles_in_one_graph(kind):
    model = model_for(kind, True, dtype=torch.float32)
    expected = run(model, "sdpa", {})
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        output_of(compiled(random_ids(2, LENGTH), use_cache=False)), expected, rtol=1e-4, atol=1e-4
    )
