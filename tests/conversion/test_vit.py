"""ViT becomes Trine and comes back: the same outputs, other image sizes too, and the same bits."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.pictures import random_images
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTImageProcessorPil

from trine import TrineConfig, TrineForImageClassification, TrineModel, convert


SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "image_size": 12,
    "patch_size": 4,
    "encoder_stride": 4,
    "num_labels": 3,
}
CLASSES = ("ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling")


def source(folder: Path, name: str = "ViTForImageClassification", **fields):
    """A ViT of transformers with random parameters, saved."""
    torch.manual_seed(0)
    model = getattr(transformers, name)(ViTConfig(**{**SIZES, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0).add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("fields", [{}, {"num_channels": 1, "hidden_act": "relu", "layer_norm_eps": 1e-5}])
def test_outputs_are_equal_and_the_way_back_is_exact(tmp_path, name, fields):
    source(tmp_path / "theirs", name, **fields)
    assert convert(tmp_path / "theirs", tmp_path / "ours", check=True) < 1e-5
    assert convert(tmp_path / "ours", tmp_path / "again", to="vit", check=True) < 1e-5
    first, last = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "again"))
    assert first.keys() == last.keys() and all(torch.equal(first[key], last[key]) for key in first)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (20, 20), (8, 16), (24, 4)])
def test_images_of_other_sizes_are_interpolated_as_transformers_does(tmp_path, height, width):
    theirs = source(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours = AutoModelForImageClassification.from_pretrained(tmp_path / "ours")
    images = random_images(2, 3, height, width, dtype=torch.float32)
    expected = theirs(pixel_values=images, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(ours(pixel_values=images).logits, expected, rtol=1e-5, atol=1e-5)


def test_every_layer_and_attention_weight_is_equal(tmp_path):
    theirs = source(tmp_path / "theirs", "ViTModel")
    theirs.set_attn_implementation("eager")
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours = TrineModel.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    asked = {"pixel_values": random_images(2, 3, 12, 12, dtype=torch.float32)}
    asked |= {"output_hidden_states": True, "output_attentions": True}
    expected, actual = theirs(**asked), ours(**asked)
    for name in ("pooler_output", "last_hidden_state"):
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-5, atol=1e-5)
    for name in ("hidden_states", "attentions"):
        for one, other in zip(actual[name][:2], expected[name][:2], strict=True):  # the last is normalised by ours
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_image_processor_comes_along(tmp_path):
    source(tmp_path / "theirs")
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    assert AutoImageProcessor.from_pretrained(tmp_path / "ours").size["height"] == 12


REFUSED = {
    "no biases": ({"qkv_bias": False}, "qkv_bias=False of model_type='vit' cannot be represented"),
    "another pooler": ({"pooler_act": "relu"}, "pooler_act='relu' of model_type='vit' cannot be represented"),
    "no square": ({"image_size": (12, 8)}, "image_size=[12, 8] of model_type='vit' cannot be represented: images and"),
    "no square patch": ({"patch_size": (4, 6)}, "patch_size=[4, 6] of model_type='vit' cannot be represented"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_counterpart_is_refused(tmp_path, case):
    fields, message = REFUSED[case]
    source(tmp_path / "theirs", **fields)
    with pytest.raises(ValueError) as caught:
        convert(tmp_path / "theirs", tmp_path / "ours")
    assert message.replace("[", "(").replace("]", ")") in str(caught.value).replace("[", "(").replace("]", ")")


def test_a_wider_pooler_and_larger_painted_patches_are_refused(tmp_path):
    source(tmp_path / "pooled", "ViTModel", pooler_output_size=8)
    with pytest.raises(ValueError, match="pooler_output_size=8 of model_type='vit' cannot be represented"):
        convert(tmp_path / "pooled", tmp_path / "ours")
    source(tmp_path / "painted", "ViTForMaskedImageModeling", encoder_stride=8)
    with pytest.raises(ValueError, match="encoder_stride=8 of model_type='vit' cannot be represented"):
        convert(tmp_path / "painted", tmp_path / "ours")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attention_types", "linear"),
        ("position_type", "rope"),
        ("num_register_tokens", 2),
        ("classifier_transform", True),
    ],
)
def test_what_a_vit_does_not_have_is_not_exported(tmp_path, field, value):
    vit = {"norm_type": "layernorm", "gated_mlp": False, "attention_bias": True, "mlp_bias": True, "is_causal": False}
    sizes = {name: size for name, size in SIZES.items() if name != "encoder_stride"}
    fields = {"input_type": "image", "position_type": "learned", "hidden_act": "gelu", **vit, **sizes}
    TrineForImageClassification(TrineConfig(**fields)).save_pretrained(tmp_path / "vit")
    convert(tmp_path / "vit", tmp_path / "theirs", to="vit", check=True)
    TrineForImageClassification(TrineConfig(**{**fields, field: value})).save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=field.removeprefix("num_").removeprefix("classifier_")):
        convert(tmp_path / "ours", tmp_path / "other", to="vit")
