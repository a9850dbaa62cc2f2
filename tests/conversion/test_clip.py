"""CLIP and SigLIP become dual encoders and come back: the same outputs in both precisions, and the same bits."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.messages import unseen
from support.pictures import random_images
from transformers import AutoProcessor, CLIPConfig, CLIPProcessor, SiglipConfig

from trine import TrineDualEncoder, TrineDualEncoderConfig, convert
from trine.conversion.equivalence import largest_difference


SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {
    **SIZES,
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 20,
    "max_position_embeddings": 10,
    "pad_token_id": 1,
    "bos_token_id": 48,
    "eos_token_id": 49,
}
VISION = {**SIZES, "hidden_size": 24, "intermediate_size": 28, "image_size": 12, "patch_size": 4}
CASES = {
    "clip": ("CLIPModel", {}, {}, {"projection_dim": 8}),
    "clip, first checkpoints": ("CLIPModel", {"eos_token_id": 2}, {"hidden_act": "gelu"}, {"projection_dim": 8}),
    "clip, grey": (
        "CLIPModel",
        {"num_hidden_layers": 3, "hidden_act": "relu", "layer_norm_eps": 1e-3},
        {"num_channels": 1, "patch_size": 6, "layer_norm_eps": 1e-3},
        {"logit_scale_init_value": 1.0},
    ),
    "siglip": ("SiglipModel", {"projection_size": 24}, {}, {}),
    "siglip, foreign ids": (
        "SiglipModel",
        {"projection_size": 24, "bos_token_id": 49406, "eos_token_id": 49407, "layer_norm_eps": 1e-3},
        {"hidden_act": "gelu", "num_attention_heads": 4, "num_channels": 1},
        {},
    ),
}


def source(folder: Path, case: str = "clip", text: dict | None = None, vision: dict | None = None):
    """A model of transformers with random parameters, saved."""
    torch.manual_seed(0)
    name, texts, images, own = CASES[case]
    config_class = CLIPConfig if name == "CLIPModel" else SiglipConfig
    stacks = {
        "text_config": {**TEXT, **texts, **(text or {})},
        "vision_config": {**VISION, **images, **(vision or {})},
    }
    model = getattr(transformers, name)(config_class(**stacks, **own)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if not key.startswith("logit_"):
                parameter.mul_(2.0).add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_equal_and_the_way_back_is_exact(tmp_path, case):
    theirs = source(tmp_path / "theirs", case)
    assert convert(tmp_path / "theirs", tmp_path / "ours", check=True) < 1e-5 * max(1, theirs.logit_scale.exp())
    assert convert(tmp_path / "ours", tmp_path / "again", to=case.partition(",")[0], check=True) < 1e-4
    first, last = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "again"))
    assert first.keys() == last.keys() and all(torch.equal(first[key], last[key]) for key in first)
    ours = TrineDualEncoder.from_pretrained(tmp_path / "ours", dtype=torch.float64)
    difference, _ = largest_difference(theirs.double(), ours, "")
    assert difference < 1e-11


@torch.no_grad()
@pytest.mark.parametrize("case", ["clip", "siglip"])
@pytest.mark.parametrize(("height", "width"), [(12, 12), (20, 20), (8, 16)])
def test_images_of_other_sizes_are_interpolated_as_transformers_does(tmp_path, case, height, width):
    theirs = source(tmp_path / "theirs", case).double()
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours = TrineDualEncoder.from_pretrained(tmp_path / "ours", dtype=torch.float64)
    images = random_images(2, 3, height, width)
    expected = theirs.get_image_features(images, interpolate_pos_encoding=True).pooler_output
    actual = ours.get_image_features(images, interpolate_pos_encoding=True).pooler_output
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("case", ["clip", "clip, first checkpoints", "siglip"])
def test_padded_texts_have_the_same_vectors(tmp_path, case):
    theirs = source(tmp_path / "theirs", case)
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours = TrineDualEncoder.from_pretrained(tmp_path / "ours")
    ids = torch.randint(3, 48, (3, 10), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row, length in enumerate((4, 10, 7)):
        ids[row, length - 1], ids[row, length:], mask[row, length:] = 49, 1, 0
    for given in ({}, {"attention_mask": mask}):
        expected = theirs.get_text_features(ids, **given).pooler_output
        torch.testing.assert_close(ours.get_text_features(ids, **given).pooler_output, expected, rtol=1e-5, atol=1e-5)


def test_the_loss_is_theirs(tmp_path):
    for case in ("clip", "siglip"):
        theirs = source(tmp_path / f"{case}-theirs", case)
        convert(tmp_path / f"{case}-theirs", tmp_path / f"{case}-ours")
        ours = TrineDualEncoder.from_pretrained(tmp_path / f"{case}-ours")
        inputs = {
            "input_ids": torch.full((2, 10), 49),
            "pixel_values": random_images(2, 3, 12, 12, dtype=torch.float32),
        }
        inputs["input_ids"][1, 0] = 7
        expected = theirs(**inputs, return_loss=True).loss
        torch.testing.assert_close(ours(**inputs, return_loss=True).loss, expected, rtol=1e-5, atol=1e-5)


def test_the_processor_comes_along(tmp_path):
    from support.duals import processor

    source(tmp_path / "theirs")
    processor().save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    loaded = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert type(loaded) is CLIPProcessor and loaded.image_processor.size["height"] == 12


REFUSED = {
    ("without a head", "siglip"): (
        {},
        {"vision_use_head": False},
        "vision_use_head=False of model_type='siglip' cannot be represented: without it there is no vector of an "
        "image.",
    ),
    ("another size", "siglip"): (
        {"projection_size": 16},
        {},
        "projection_size=16 of model_type='siglip' cannot be represented: vectors of texts and images are compared, "
        "and the latter have hidden_size=24.",
    ),
    ("a foreign end", "clip"): ({"eos_token_id": 99}, {}, "text_config: eos_token_id=99 must lie in the vocabulary,"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_counterpart_is_refused(tmp_path, case):
    text, vision, message = REFUSED[case]
    source(tmp_path / "theirs", case[1], text, vision)
    with pytest.raises(ValueError) as caught:
        convert(tmp_path / "theirs", tmp_path / "ours")
    assert message in str(caught.value) and not (tmp_path / "ours").exists()


def test_every_refusal_is_tested():
    messages = [message for _, _, message in REFUSED.values()]
    assert not [place for place in unseen("conversion", messages) if place.startswith("conversion/families/clip")]


STACKS = {
    "text_config": {
        **{"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "is_causal": True},
        **{"position_type": "learned", "norm_type": "layernorm", "gated_mlp": False, "attention_bias": True},
        **{"mlp_bias": True, "max_position_embeddings": 10, "eos_token_id": 49},
    }
}
STACKS["vision_config"] = {
    **{name: value for name, value in STACKS["text_config"].items() if name not in ("vocab_size", "eos_token_id")},
    **{"is_causal": False, "image_size": 12, "patch_size": 4, "use_cls_token": True, "embedding_norm": True},
}
OTHERS = {
    "text_config.attention_types": {"text_config": {"attention_types": "linear"}},
    "vision_config.position_type": {"vision_config": {"position_type": "rope"}},
    "text_pooling": {"text_pooling": "mean"},
    "vision_pooling": {"vision_pooling": "mean"},
    "text_projection": {"text_projection": "affine"},
}


@pytest.mark.parametrize("field", [None, *OTHERS])
def test_what_a_clip_does_not_have_is_not_exported(tmp_path, field):
    change = OTHERS.get(field, {})
    stacks = {name: {**stack, **change.get(name, {})} for name, stack in STACKS.items()}
    own = {name: value for name, value in change.items() if name not in stacks}
    config = TrineDualEncoderConfig(**{"text_pooling": "eos", "projection_dim": 8, **stacks, **own})
    model = TrineDualEncoder(config)
    torch.nn.init.zeros_(model.vision_model.embed_tokens.projection.bias)
    model.save_pretrained(tmp_path / "ours")
    if field is None:
        convert(tmp_path / "ours", tmp_path / "theirs", to="clip", check=True)
        return
    with pytest.raises(ValueError, match=field.partition(".")[2] or field):
        convert(tmp_path / "ours", tmp_path / "theirs", to="clip")
