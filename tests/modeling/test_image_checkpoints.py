"""Checkpoints of models of images: in pipelines, with pictures of every mode, and where trine is not installed."""

import io

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support import forks
from support.pictures import image_model, odd_pictures, random_images
from transformers import AutoModel, ViTImageProcessorPil, pipeline

from trine import TrineForImageClassification, TrineForMaskedImageModeling


STRANGER = """
import sys
sys.modules["trine"] = None
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForMaskedImageModeling, pipeline

images = load_file("images.safetensors")["images"]
found = {}
for name, kind in (("classes", AutoModelForImageClassification), ("painter", AutoModelForMaskedImageModeling)):
    model = kind.from_pretrained(name, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    found[name] = next(iter(model(pixel_values=images).values())).detach().contiguous()
    model.save_pretrained(f"{name}-again")
trunk = AutoModel.from_pretrained("classes-again", trust_remote_code=True)
found["row"] = trunk(pixel_values=[images[0], images[1, :, :4]]).last_hidden_state.detach().contiguous()
classify = pipeline("image-classification", model="classes", trust_remote_code=True)
found["scores"] = torch.tensor([each["score"] for each in classify(Image.new("RGBA", (5, 9), "red"))])
save_file(found, "found.safetensors")
"""


@torch.no_grad()
def test_a_checkpoint_is_bit_equal_without_the_package(tmp_path, monkeypatch):
    images = random_images(2, 3, 12, 12, dtype=torch.float32)
    save_file({"images": images}, tmp_path / "images.safetensors")
    fields = {"dtype": torch.float32, "num_channels": 3, "attention_types": "full, linear", "num_labels": 4}
    classes = image_model(TrineForImageClassification, **fields)
    painter = image_model(TrineForMaskedImageModeling, use_mask_token=True, position_type="learned", **fields)
    for name, model in (("classes", classes), ("painter", painter)):
        model.save_pretrained(tmp_path / name)
        ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(tmp_path / name)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    result = forks.run(["-c", STRANGER], tmp_path)
    assert result.returncode == 0, result.stderr
    found = load_file(tmp_path / "found.safetensors")
    classify = pipeline("image-classification", model=str(tmp_path / "classes"))
    scores = torch.tensor([each["score"] for each in classify(Image.new("RGBA", (5, 9), "red"))])
    row = AutoModel.from_pretrained(tmp_path / "classes")(pixel_values=[images[0], images[1, :, :4]])
    expected = {"classes": classes(pixel_values=images).logits, "painter": painter(pixel_values=images).reconstruction}
    for name, tensor in (expected | {"row": row.last_hidden_state, "scores": scores}).items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("mode", odd_pictures())
def test_the_pipeline_takes_pictures_of_every_mode(tmp_path, mode):
    model = image_model(TrineForImageClassification, dtype=torch.float32, num_channels=3, num_labels=3)
    processor = ViTImageProcessorPil(size={"height": 12, "width": 12})
    picture = odd_pictures()[mode]
    found = pipeline("image-classification", model=model, image_processor=processor)([picture, picture], top_k=3)
    pixels = processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"]
    expected = model(pixel_values=pixels).logits.softmax(-1)[0].sort(descending=True).values
    for answer in found:
        torch.testing.assert_close(torch.tensor([each["score"] for each in answer]), expected)


def test_the_pipeline_names_what_is_no_picture(tmp_path):
    model = image_model(TrineForImageClassification, dtype=torch.float32, num_channels=3)
    classify = pipeline("image-classification", model=model, image_processor=ViTImageProcessorPil())
    data = io.BytesIO()
    Image.radial_gradient("L").save(data, "PNG")
    (tmp_path / "cut.png").write_bytes(data.getvalue()[:200])
    with pytest.raises(OSError, match="truncated"):
        classify(str(tmp_path / "cut.png"))


def test_the_card_tells_of_images():
    card = image_model(TrineForImageClassification, dtype=torch.float32).render_card()
    assert "pipeline_tag: image-classification" in card and "AutoImageProcessor" in card
    assert "| images | of 12 pixels squared, 2 channels, patches of 4 |" in card and "vocabulary" not in card
