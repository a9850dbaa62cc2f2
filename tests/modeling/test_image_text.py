"""Decoders that read pictures: beside the stacks by themselves, every way of generation, processors, errors."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from support import forks
from support.captioners import IMAGE_TOKEN, batch, caption_config, captioner
from support.messages import unseen
from support.pictures import odd_pictures, random_images
from support.tiny import random_ids
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaProcessor, ViTImageProcessorPil, pipeline

from trine import TrineForImageTextToText, TrineImageTextConfig, train_byte_level_bpe
from trine.configuration.kinds import ATTENTION_KINDS


def by_hand(model, ids: torch.Tensor, images: list[torch.Tensor]) -> torch.Tensor:
    """The logits of one row (N,), token by token from the stacks by themselves."""
    patches = []
    for image in images:
        states = model.vision_model(pixel_values=image[None]).last_hidden_state[0]
        for state in states[model.vision_model.embed_tokens.num_prefix_tokens :]:
            inner = torch.nn.functional.gelu(model.projector.up_proj(state))
            patches.append(model.projector.down_proj(inner))
    table = model.language_model.model.embed_tokens.weight
    rows = [patches.pop(0) if token == IMAGE_TOKEN else table[token] for token in ids.tolist()]
    assert not patches
    return model.language_model(inputs_embeds=torch.stack(rows)[None]).logits[0]


@torch.no_grad()
@pytest.mark.parametrize("vision", [{}, {"use_cls_token": False}, {"num_register_tokens": 2}])
def test_rows_with_one_two_and_no_images_are_those_of_the_stacks(vision):
    model, inputs = captioner(vision=vision), batch()
    outputs = model(**inputs, labels=inputs["input_ids"])
    images = inputs["pixel_values"]
    rows = [by_hand(model, inputs["input_ids"][0, 8:], [images[0]])]
    rows += [by_hand(model, inputs["input_ids"][1], [*images[1:]]), by_hand(model, inputs["input_ids"][2], [])]
    losses = []
    for row, start in enumerate((8, 0, 0)):
        torch.testing.assert_close(outputs.logits[row, start:], rows[row])
        targets = inputs["input_ids"][row, start + 1 :]
        kept = targets != IMAGE_TOKEN
        losses.append(torch.nn.functional.cross_entropy(rows[row][:-1][kept], targets[kept], reduction="none"))
    padding = outputs.logits[0, :7].log_softmax(-1)[:, 0].neg()  # labels of padding are given, and count
    first = outputs.logits[0, 7].log_softmax(-1)[inputs["input_ids"][0, 8]].neg()
    expected = torch.cat([*losses, padding, first[None]]).mean()
    torch.testing.assert_close(outputs.loss.double(), expected, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_images_of_several_sizes_fill_their_own_numbers_of_tokens():
    model = captioner()
    images = [random_images(3, 12, 12), random_images(3, 4, 8, seed=1)]
    ids = random_ids(1, 20, vocab_size=IMAGE_TOKEN)
    ids[0, 2:11] = ids[0, 12:14] = IMAGE_TOKEN
    logits = model(input_ids=ids, pixel_values=images).logits[0]
    torch.testing.assert_close(logits, by_hand(model, ids[0], images))


@torch.no_grad()
@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_cached_equals_uncached_for_every_kind(kind):
    model, inputs = captioner({"attention_types": kind}), batch()
    options = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    found = [model.generate(**inputs, **options, use_cache=cached) for cached in (True, False)]
    assert torch.equal(found[0].sequences, found[1].sequences)
    assert torch.equal(found[0].sequences[:, :24], inputs["input_ids"])
    for one, other in zip(found[0].logits, found[1].logits, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_beams_several_answers_and_a_static_cache():
    model, inputs = captioner(), batch()
    options = {"max_new_tokens": 5, "pad_token_id": 0}
    plain = model.generate(**inputs, **options, do_sample=False)
    static = {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(model.generate(**inputs, **options, do_sample=False, **static), plain)
    beams = model.generate(**inputs, **options, num_beams=3, num_return_sequences=2, do_sample=False)
    assert beams.shape[0] == 6 and torch.equal(beams[::2, :24], inputs["input_ids"])
    row = {name: value[1:2] for name, value in inputs.items()} | {"pixel_values": inputs["pixel_values"][1:]}
    alone = model.generate(**row, **options, num_beams=3, num_return_sequences=2, do_sample=False)
    assert torch.equal(alone, beams[2:4, : alone.shape[1]]), "the second row's images stay its own"


def test_it_learns_to_name_pictures_with_checkpointing_and_adapters():
    torch.manual_seed(0)
    model = TrineForImageTextToText(caption_config()).train()
    model.gradient_checkpointing_enable()
    ids = torch.full((4, 13), IMAGE_TOKEN)
    ids[:, 9:] = random_ids(4, 4, vocab_size=IMAGE_TOKEN)
    inputs = {"input_ids": ids, "pixel_values": random_images(4, 3, 12, 12, dtype=torch.float32)}
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(90):
        loss = model(**inputs, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None for name, p in model.named_parameters() if "cls_token" not in name)
    prompt = {**inputs, "input_ids": ids[:, :9], "max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    assert loss < 0.2 and torch.equal(model.eval().generate(**prompt), ids)
    adapted = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False)).eval()
    expected = adapted(**inputs).logits
    torch.testing.assert_close(adapted.merge_and_unload()(**inputs).logits, expected, rtol=1e-3, atol=1e-3)


STRANGER = """
import sys
sys.modules["trine"] = None
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, pipeline

inputs = load_file("inputs.safetensors")
model = AutoModelForImageTextToText.from_pretrained("model", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules.")
model.save_pretrained("again")
again = AutoModelForImageTextToText.from_pretrained("again", trust_remote_code=True)
found = {"logits": again(**inputs).logits.detach().contiguous()}
found["tokens"] = model.generate(**inputs, max_new_tokens=4, do_sample=False)
save_file(found, "found.safetensors")
describe = pipeline("image-text-to-text", model="model", trust_remote_code=True)
red = Image.new("RGB", (20, 20), "red")
print(describe(images=red, text="<image>a picture", max_new_tokens=3)[0]["generated_text"])
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a model and its processor, and the model."""
    folder = tmp_path_factory.mktemp("captions") / "model"
    texts = ["a picture of a red house", "the blue river"] * 5
    tokenizer = train_byte_level_bpe(texts, 300, show_progress=False, extra_special_tokens=["<image>"])
    image = tokenizer.convert_tokens_to_ids("<image>")
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    model = captioner({**sizes, "eos_token_id": tokenizer.eos_token_id}, dtype=torch.float32, image_token_id=image)
    model.save_pretrained(folder)
    image_processor = ViTImageProcessorPil(size={"height": 12, "width": 12}, do_convert_rgb=True)
    options = {"patch_size": 4, "vision_feature_select_strategy": "full"}
    LlavaProcessor(image_processor, tokenizer, **options).save_pretrained(folder)
    return folder, model


@torch.no_grad()
def test_the_pipeline_takes_pictures_of_every_mode(saved):
    folder, model = saved
    describe = pipeline("image-text-to-text", model=str(folder))
    prepare = AutoProcessor.from_pretrained(folder)
    for picture in odd_pictures().values():
        found = describe(images=picture, text="<image>a picture", max_new_tokens=3, return_full_text=False)
        inputs = prepare(images=picture.convert("RGB"), text="<image>a picture", return_tensors="pt")
        assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 9
        ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        assert found[0]["generated_text"] == prepare.tokenizer.decode(ids[0], skip_special_tokens=True)
    two = prepare(text=["<image>a", "the blue <image> river"], images=[picture] * 2, padding=True, return_tensors="pt")
    assert model(**two).logits.shape[0] == 2


@torch.no_grad()
def test_a_checkpoint_is_bit_equal_without_the_package(saved, monkeypatch):
    folder, model = saved
    ids = torch.full((1, 12), model.config.image_token_id)
    ids[0, 9:] = random_ids(3)
    inputs = {"input_ids": ids, "pixel_values": random_images(1, 3, 12, 12, dtype=torch.float32)}
    save_file(inputs, folder.parent / "inputs.safetensors")
    monkeypatch.setenv("HF_MODULES_CACHE", str(folder.parent / "modules"))
    result = forks.run(["-c", STRANGER], folder.parent)
    assert result.returncode == 0, result.stderr
    found = load_file(folder.parent / "found.safetensors")
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(loaded) is TrineForImageTextToText
    assert torch.equal(found["logits"], loaded(**inputs).logits)
    assert torch.equal(found["tokens"], loaded.generate(**inputs, max_new_tokens=4, do_sample=False))
    describe = pipeline("image-text-to-text", model=str(folder))
    picture = Image.new("RGB", (20, 20), "red")
    text = describe(images=picture, text="<image>a picture", max_new_tokens=3)[0]["generated_text"]
    assert result.stdout.rstrip("\n").endswith(text)


def test_the_card_and_changed_fields(saved, tmp_path):
    folder, model = saved
    card = model.render_card()
    assert "pipeline_tag: image-text-to-text" in card and "AutoProcessor" in card
    changed = AutoModelForImageTextToText.from_pretrained(folder, text_config={"hidden_dropout": 0.5})
    assert changed.language_model.model.dropout.p == 0.5
    size = model.config.text_config.vocab_size
    changed.resize_token_embeddings(size + 3)
    assert changed.config.text_config.vocab_size == size + 3 == changed.language_model.lm_head.weight.shape[0]


def wrong(change=None, **fields):
    inputs = {**batch(), **fields}
    if change is not None:
        change(inputs["input_ids"])
    return captioner()(**inputs)


def one_fewer(ids: torch.Tensor) -> None:
    ids[0, 18] = 5


def from_row_to_row(ids: torch.Tensor) -> None:
    ids[0, 18], ids[2, 5] = 5, IMAGE_TOKEN


MESSAGES = {
    "text_config.is_causal=False, but a TrineImageTextConfig needs True.": lambda: caption_config(
        {"is_causal": False}
    ),
    "text_config.prefix_lm=True, but a TrineImageTextConfig needs False.": lambda: caption_config({"prefix_lm": True}),
    "image_token_id=61 must lie in the vocabulary, 0 to 60.": lambda: caption_config(image_token_id=61),
    "projector_hidden_act='swoosh'": lambda: captioner(projector_hidden_act="swoosh"),
    "input_ids hold 26 image tokens, but 3 images have 27 patches": lambda: wrong(one_fewer),
    "Row 0 of input_ids holds 8 image tokens, which no whole images of [9, 9, 9] patches": lambda: wrong(
        from_row_to_row
    ),
    "input_ids hold 27 image tokens (image_token_id=60), but pixel_values are missing.": lambda: wrong(
        pixel_values=None
    ),
    "input_ids hold 27 image tokens, but 2 images have 18 patches": lambda: wrong(
        pixel_values=random_images(2, 3, 12, 12)
    ),
    "pixel_values take the places of tokens in input_ids, which are missing.": lambda: wrong(input_ids=None),
    "pixel_values are given beside inputs_embeds, in which they have no places.": lambda: wrong(
        input_ids=None, inputs_embeds=torch.zeros((1, 2, 32), dtype=torch.float64)
    ),
    "model_type='trine_image_text' reads images, which continuous batching does not": lambda: (
        captioner().init_continuous_batching()
    ),
    "pixel_values have a width of 10 pixels": lambda: wrong(pixel_values=random_images(3, 3, 12, 10)),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_errors_say_what_is_wrong(message):
    with pytest.raises(ValueError) as caught:
        MESSAGES[message]()
    assert message in str(caught.value)


def test_every_error_is_tested():
    found = []
    for act in MESSAGES.values():
        with pytest.raises(ValueError) as caught:
            act()
        found.append(str(caught.value))
    places = [*unseen("modeling", found), *unseen("configuration", found)]
    own = ("modeling/modeling_trine_image_text", "configuration/configuration_trine_image_text")
    assert [place for place in places if place.startswith(own)] == []


def test_defaults():
    config = TrineImageTextConfig(text_config={"vocab_size": 100}, vision_config={"image_size": 32})
    assert config.image_token_id == 99 and config.vision_config.input_type == "image"
