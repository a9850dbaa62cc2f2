"""Checkpoints of dual encoders: in pipelines, with odd pictures, in sentence-transformers, without the package."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from support import forks
from support.duals import TEXTS, batch, dual_encoder, processor
from support.pictures import odd_pictures
from transformers import AutoProcessor, CLIPProcessor, pipeline

from trine.configuration.bundle import files_of


STRANGER = """
import sys
sys.modules["trine"] = None
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor, pipeline

inputs, found = load_file("inputs.safetensors"), {}
model = AutoModelForZeroShotImageClassification.from_pretrained("model", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules.")
found["logits"] = model(**inputs).logits_per_image.contiguous()
model.save_pretrained("again")
again = AutoModel.from_pretrained("again", trust_remote_code=True)
found["text"] = again.get_text_features(inputs["input_ids"]).pooler_output.contiguous()
classify = pipeline("zero-shot-image-classification", model="model", trust_remote_code=True)
answers = classify(Image.new("RGBA", (5, 9), "red"), candidate_labels=["a red square", "a blue circle"])
found["scores"] = torch.tensor([each["score"] for each in answers])
model.vision_model.save_pretrained("tower")
tower = AutoModel.from_pretrained("tower", trust_remote_code=True)
found["tower"] = tower(pixel_values=inputs["pixel_values"]).last_hidden_state.contiguous()
save_file({name: tensor.detach() for name, tensor in found.items()}, "found.safetensors")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a model and its processor, and the model."""
    folder = tmp_path_factory.mktemp("dual") / "model"
    made = processor()
    model = dual_encoder({"vocab_size": len(made.tokenizer)}, dtype=torch.float32, vision_pooling="attention")
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder, model


@torch.no_grad()
def test_a_checkpoint_is_bit_equal_without_the_package(saved, monkeypatch):
    folder, model = saved
    inputs = batch(dtype=torch.float32)
    save_file(inputs, folder.parent / "inputs.safetensors")
    monkeypatch.setenv("HF_MODULES_CACHE", str(folder.parent / "modules"))
    result = forks.run(["-c", STRANGER], folder.parent)
    assert result.returncode == 0, result.stderr
    found = load_file(folder.parent / "found.safetensors")
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    answers = classify(Image.new("RGBA", (5, 9), "red"), candidate_labels=["a red square", "a blue circle"])
    expected = {
        "logits": model(**inputs).logits_per_image,
        "text": model.get_text_features(inputs["input_ids"]).pooler_output,
        "scores": torch.tensor([each["score"] for each in answers]),
        "tower": model.vision_model(pixel_values=inputs["pixel_values"]).last_hidden_state,
    }
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@torch.no_grad()
def test_the_pipeline_takes_pictures_of_every_mode(saved):
    folder, model = saved
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    prepare = AutoProcessor.from_pretrained(folder)
    assert type(prepare) is CLIPProcessor
    template = "a picture of {}"
    texts = prepare.tokenizer([template.format(text) for text in TEXTS], padding=True, return_tensors="pt")
    for picture in odd_pictures().values():
        found = classify(picture, candidate_labels=TEXTS, hypothesis_template=template)
        pixels = prepare.image_processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"]
        logits = model(**texts, pixel_values=pixels).logits_per_image[0]
        expected = dict(zip(TEXTS, logits.softmax(-1).tolist(), strict=True))
        assert {each["label"]: each["score"] for each in found} == pytest.approx(expected, abs=1e-5)
    with pytest.raises(OSError, match="cannot identify image file|truncated"):
        (folder.parent / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        classify(str(folder.parent / "cut.png"), candidate_labels=TEXTS)


def test_a_processor_makes_what_the_model_reads(saved):
    folder, model = saved
    inputs = AutoProcessor.from_pretrained(folder)(
        text=TEXTS, images=[Image.new("L", (1, 1)), Image.new("P", (30, 4))], padding=True, return_tensors="pt"
    )
    assert model(**inputs).logits_per_image.shape == (2, len(TEXTS))


@torch.no_grad()
def test_sentence_transformers_encodes_texts_and_pictures(saved):
    folder, model = saved
    embedder = SentenceTransformer(str(folder), device="cpu")
    picture, prepare = Image.new("RGB", (20, 30), "red"), AutoProcessor.from_pretrained(folder)
    texts = prepare.tokenizer(TEXTS, padding=True, return_tensors="pt")
    expected = model.get_text_features(**texts).pooler_output
    torch.testing.assert_close(embedder.encode(TEXTS, convert_to_tensor=True), expected, rtol=1e-4, atol=1e-4)
    pixels = prepare.image_processor([picture], return_tensors="pt")["pixel_values"]
    expected = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(embedder.encode([picture], convert_to_tensor=True), expected, rtol=1e-4, atol=1e-4)


def test_the_card_tells_of_both_stacks(saved):
    card = saved[1].render_card()
    assert "pipeline_tag: zero-shot-image-classification" in card and "AutoProcessor" in card
    assert "| images: images | of 12 pixels squared, 3 channels, patches of 4 |" in card
    assert "| vectors | of 16 features, trained with the softmax loss |" in card


def test_the_code_holds_what_the_config_names():
    text = "".join(files_of(dual_encoder(contrastive_loss="sigmoid", vision_pooling="attention").config).values())
    assert "def sigmoid_loss(" in text and "class AttentionPooling(" in text and "def pool_mean(" in text
    assert not [name for name in ("def softmax_loss(", "def pool_eos(", "check_dual") if name in text]
