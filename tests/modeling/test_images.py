"""Models of images: against loops, beside transformers' ViT, and with every mechanism behind the patches."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import reference
from support.messages import unseen
from support.pictures import IMAGE, image_config, image_model, random_images
from support.reference.patches import GridRotaryPositions, image_tokens
from support.tiny import SPARSE, assert_gradients_equal, leaves, tiny_config, tiny_model
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    ViTConfig,
    ViTForMaskedImageModeling,
)

from trine import TrineConfig, TrineForImageClassification, TrineForMaskedImageModeling, TrineModel
from trine.configuration.kinds import ATTENTION_KINDS, POSITION_KINDS
from trine.modeling.inputs.images import uncut


TOLERANCES = {"rtol": 1e-8, "atol": 1e-10}
ROTATED = {"rtol": 1e-4, "atol": 1e-4}  # rotations are made in float32


def tolerances(position_type: str) -> dict[str, float]:
    return ROTATED if position_type == "rope" else TOLERANCES


POSITIONS = pytest.mark.parametrize("position_type", sorted(POSITION_KINDS))


def expected_states(model, tensors, image, monkeypatch, hidden=()) -> torch.Tensor:
    """Last hidden states (T + N, hidden) of one image by the loops."""
    config, weights = copy.deepcopy(model.config), reference.Weights(tensors)
    vectors = image_tokens(config, weights["embed_tokens"], image, hidden)
    monkeypatch.setattr(GridRotaryPositions, "prefix", config.use_cls_token + config.num_register_tokens)
    monkeypatch.setattr(GridRotaryPositions, "columns", image.shape[2] // config.patch_size)
    monkeypatch.setitem(reference.POSITIONS, "rope", GridRotaryPositions)
    if config.position_type in ("learned", "sinusoidal"):  # added already
        config.position_type = "none"
    table = reference.Weights({**tensors, "embed_tokens.weight": vectors})
    return reference.trunk(config, table, list(range(len(vectors))))


@POSITIONS
@pytest.mark.parametrize("fields", [{}, {"num_register_tokens": 2, **SPARSE}, {"use_cls_token": False}])
def test_outputs_and_gradients_are_those_of_the_loops(position_type, fields, monkeypatch):
    model = image_model(position_type=position_type, num_hidden_layers=1, use_mask_token=True, **fields)
    tensors, images, hidden = leaves(model), random_images(2, 2, 12, 12), torch.zeros((2, 9), dtype=torch.bool)
    hidden[1, 4] = hidden[1, 7] = True
    expected = torch.stack(
        [
            expected_states(model, tensors, image, monkeypatch, numbers)
            for image, numbers in zip(images, ((), (4, 7)), strict=True)
        ]
    )
    direction = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (expected * direction).sum().backward()
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        actual = model(pixel_values=images, bool_masked_pos=hidden).last_hidden_state
        torch.testing.assert_close(actual, expected, **tolerances(position_type))
        (actual * direction).sum().backward()
        assert_gradients_equal(model, tensors, **tolerances(position_type))


@POSITIONS
def test_images_that_are_no_square_have_their_own_rows_and_columns(position_type, monkeypatch):
    if position_type == "learned":  # whose vectors are interpolated: see below
        return
    model = image_model(position_type=position_type)
    image = random_images(2, 8, 20)
    expected = expected_states(model, leaves(model), image, monkeypatch)
    actual = model(pixel_values=image[None]).last_hidden_state[0]
    torch.testing.assert_close(actual, expected, **tolerances(position_type))


@pytest.mark.parametrize("kind", sorted(ATTENTION_KINDS))
@pytest.mark.parametrize("position_type", ["learned", "rope"])
def test_a_row_of_mixed_sizes_equals_the_images_by_themselves(kind, position_type):
    model = image_model(attention_types=kind, position_type=position_type, num_register_tokens=1)
    images = [random_images(2, 4 * rows, 4 * columns, seed=rows) for rows, columns in ((3, 3), (1, 1), (2, 4), (4, 1))]
    row = model(pixel_values=images).last_hidden_state
    alone = [model(pixel_values=image[None]).last_hidden_state[0] for image in images]
    assert row.shape == (1, sum(map(len, alone)), 32)
    if kind == "bigbird":  # whose random blocks are drawn for places in the row
        row, alone = row[:, : len(alone[0])], alone[:1]
    torch.testing.assert_close(row[0], torch.cat(alone), **TOLERANCES)


@pytest.mark.parametrize("kind", sorted(ATTENTION_KINDS))
def test_every_attention_trains_behind_patches(kind):
    model = image_model(TrineForImageClassification, attention_types=kind, dtype=torch.float32, num_labels=3).train()
    model(pixel_values=random_images(2, 2, 12, 12, dtype=torch.float32), labels=torch.tensor([0, 2])).loss.backward()
    gradients = model.model.embed_tokens.projection.weight.grad
    assert gradients.abs().sum() > 0 and gradients.isfinite().all()


def test_patches_are_a_convolution_and_come_back():
    patches, images = image_model().embed_tokens, random_images(2, 2, 12, 8)
    kernel = patches.projection.weight.reshape(32, 2, 4, 4)
    expected = torch.nn.functional.conv2d(images, kernel, patches.projection.bias, stride=4).flatten(2).mT
    torch.testing.assert_close(patches.projection(patches.cut(images)), expected, **TOLERANCES)
    assert torch.equal(uncut(patches.cut(images), (3, 2), 2), images)


def test_the_loss_of_hidden_patches_is_that_of_transformers():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    theirs = ViTForMaskedImageModeling(ViTConfig(**sizes, image_size=8, patch_size=4, encoder_stride=4)).eval()
    config = TrineConfig(
        input_type="image",
        image_size=8,
        patch_size=4,
        use_mask_token=True,
        is_causal=False,
        position_type="none",
        **sizes,
    )
    ours = TrineForMaskedImageModeling(config).eval()
    with torch.no_grad():  # both paint nothing but their biases
        theirs.decoder[0].weight.zero_(), ours.decoder.weight.zero_()
        theirs.decoder[0].bias.normal_()
        ours.decoder.bias.copy_(theirs.decoder[0].bias)
    images, hidden = random_images(3, 3, 8, 8, dtype=torch.float32), torch.rand((3, 4)) < 0.5
    expected = theirs(pixel_values=images, bool_masked_pos=hidden)
    actual = ours(pixel_values=images, bool_masked_pos=hidden)
    torch.testing.assert_close(actual.loss, expected.loss, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(actual.reconstruction, expected.reconstruction)
    assert ours(pixel_values=images).loss is None
    assert ours(pixel_values=images, bool_masked_pos=torch.zeros((3, 4))).loss == 0


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_a_classifier_reads_what_its_pooling_names(pooling):
    model = image_model(
        TrineForImageClassification,
        classifier_pooling=pooling,
        num_register_tokens=2,
        num_labels=5,
        position_type="learned",
    )
    images = random_images(2, 2, 12, 12)
    states = model.model(pixel_values=images).last_hidden_state
    read = {"cls": states[:, 0], "mean": states[:, 3:].mean(dim=1), "last": states[:, -1]}[pooling]
    expected = read @ model.classifier.weight.T + model.classifier.bias
    labels = torch.tensor([1, 4])
    outputs = model(pixel_values=images, labels=labels)
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-6, atol=1e-7)  # a mean has weights in float32
    loss = -expected.log_softmax(-1)[[0, 1], labels].mean()
    torch.testing.assert_close(outputs.loss, loss, check_dtype=False)
    row = model(pixel_values=[*images], labels=labels)
    torch.testing.assert_close(row.logits, outputs.logits, **TOLERANCES)


def test_a_trunk_has_a_pooler_where_the_config_says_so():
    model = image_model(add_pooling_layer=True)
    outputs = model(pixel_values=[random_images(2, 8, 8), random_images(2, 4, 12, seed=1)])
    first = outputs.last_hidden_state[0, [0, 5]]
    torch.testing.assert_close(outputs.pooler_output, torch.tanh(model.pooler.dense(first)), **TOLERANCES)


def test_experts_are_balanced_in_training():
    model = image_model(TrineForImageClassification, dtype=torch.float32, num_labels=2, **SPARSE).train()
    images, labels = random_images(4, 2, 12, 12, dtype=torch.float32), torch.tensor([0, 1, 1, 0])
    outputs = model(pixel_values=images, labels=labels, output_router_logits=True)
    plain = model(pixel_values=images, labels=labels).loss
    assert outputs.aux_loss > 0 and outputs.router_logits[0].shape == (40, 4)
    torch.testing.assert_close(outputs.loss, plain)


@pytest.mark.parametrize("is_reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(is_reentrant):
    model = image_model(TrineForImageClassification, num_labels=3).train()
    images, labels = random_images(2, 2, 12, 12), torch.tensor([0, 2])
    gradients = []
    for recomputes in (False, True):
        if recomputes:
            model.gradient_checkpointing_enable({"use_reentrant": is_reentrant})
            model.enable_input_require_grads()
        model.zero_grad()
        model(pixel_values=images, labels=labels).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_compiled_code_has_no_breaks():
    model = image_model(TrineForImageClassification, dtype=torch.float32, num_labels=3)
    images = random_images(2, 2, 12, 12, dtype=torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(pixel_values=images).logits, model(pixel_values=images).logits)


def test_adapters_are_added_trained_and_merged(tmp_path):
    model = image_model(TrineForImageClassification, dtype=torch.float32, num_labels=3)
    images, labels = random_images(2, 2, 12, 12, dtype=torch.float32), torch.tensor([0, 2])
    adapted = get_peft_model(model, LoraConfig(r=2, modules_to_save=["classifier"], init_lora_weights=False))
    loss = adapted(pixel_values=images, labels=labels).loss
    loss.backward()
    assert any(parameter.grad is not None for name, parameter in adapted.named_parameters() if "lora" in name)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(pixel_values=images, labels=labels).loss, loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position_type", ["learned", "rope"])
def test_saved_models_load_by_their_auto_classes(tmp_path, position_type):
    images = random_images(2, 2, 12, 12, dtype=torch.float32)
    fields = {"position_type": position_type, "dtype": torch.float32, "use_mask_token": True, "num_labels": 3}
    for auto_class, model_class in (
        (AutoModelForImageClassification, TrineForImageClassification),
        (AutoModelForMaskedImageModeling, TrineForMaskedImageModeling),
    ):
        model = image_model(model_class, **fields)
        model.save_pretrained(tmp_path)
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is model_class and loaded.config.to_dict()["image_size"] == 12
        assert torch.equal(
            next(iter(loaded(pixel_values=images).values())), next(iter(model(pixel_values=images).values()))
        )
        trunk = AutoModel.from_pretrained(tmp_path)
        states = model.model(pixel_values=images).last_hidden_state
        assert torch.equal(trunk(pixel_values=images).last_hidden_state, states)
    assert model.get_input_embeddings() is model.model.embed_tokens


def test_a_model_learns_its_images():
    torch.manual_seed(0)
    model = TrineForImageClassification(image_config(num_labels=4)).train()
    images, labels = random_images(8, 2, 12, 12, dtype=torch.float32), torch.arange(8) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(pixel_values=images, labels=labels).loss.backward()
        optimizer.step()
    assert model.eval()(pixel_values=images).logits.argmax(-1).tolist() == labels.tolist()


def build(model_class=TrineModel, **fields):
    return lambda: model_class(image_config(**fields))


def call(model_class=TrineModel, dtype=torch.float64, fields=(), **inputs):
    return lambda: image_model(model_class, dtype=dtype, **dict(fields))(**inputs)


IMAGES, IDS = random_images(2, 2, 12, 12), torch.tensor([[3, 4]])
ERRORS = {
    "no image": (call(), "input_type='image' reads pixel_values, which is missing."),
    "ids": (call(input_ids=IDS), "pixel_values, which is missing, and not input_ids, which is given."),
    "both": (
        call(pixel_values=IMAGES, inputs_embeds=IMAGES),
        "which is given, and not inputs_embeds, which is given.",
    ),
    "text model": (
        lambda: tiny_model()(pixel_values=IMAGES),
        "pixel_values is read with input_type='image', but this model has input_type='tokens' and reads input_ids.",
    ),
    "channels": (
        call(pixel_values=random_images(1, 3, 12, 12)),
        "have shape (1, 3, 12, 12), but must have (batch, num_ch",
    ),
    "one image": (call(pixel_values=IMAGES[0]), "pixel_values have shape (2, 12, 12), but"),
    "whole numbers": (call(pixel_values=IMAGES.long()), "pixel_values are of torch.int64, but must be floating-point"),
    "height": (
        call(pixel_values=random_images(1, 2, 10, 12)),
        "a height of 10 pixels, which is not a multiple of patch_size=4",
    ),
    "width": (
        call(pixel_values=[random_images(2, 12, 3)]),
        "a width of 3 pixels, which is not a multiple of patch_size=4",
    ),
    "no pixels": (call(pixel_values=random_images(1, 2, 0, 4)), "a height of 0 pixels"),
    "empty list": (call(pixel_values=[]), "pixel_values=[] holds no image."),
    "no mask token": (
        call(pixel_values=IMAGES, bool_masked_pos=torch.ones(2, 9)),
        "bool_masked_pos is given, but use_mask_token=False",
    ),
    "other mask": (
        call(pixel_values=IMAGES, bool_masked_pos=torch.ones(2, 8), fields={"use_mask_token": True}),
        "bool_masked_pos has shape (2, 8), but pixel_values has (2, 9) patches.",
    ),
    "text head": (
        lambda: TrineForImageClassification(tiny_config(is_causal=False)),
        "input_type='tokens', but TrineForImageClassification needs input_type='image'.",
    ),
    "text head for patches": (
        lambda: TrineForMaskedImageModeling(tiny_config(is_causal=False)),
        "input_type='tokens', but TrineForMaskedImageModeling needs input_type='image'.",
    ),
    "no class token": (
        build(TrineForImageClassification, use_cls_token=False),
        "classifier_pooling='cls' reads the class token, but use_cls_token=False: take 'mean'.",
    ),
    "nothing hides": (
        build(TrineForMaskedImageModeling),
        "use_mask_token=False, but TrineForMaskedImageModeling needs",
    ),
    "a decoder": (
        build(TrineForMaskedImageModeling, use_mask_token=True, is_causal=True),
        "is_causal=True, but TrineForMaskedImageModeling needs is_causal=False.",
    ),
    "a list to paint": (
        call(TrineForMaskedImageModeling, pixel_values=[*IMAGES], fields={"use_mask_token": True}),
        "pixel_values are a list, but hidden patches are painted in images of one size: stack them.",
    ),
}


def message_of(case: str) -> str:
    with pytest.raises(ValueError) as caught:
        ERRORS[case][0]()
    return str(caught.value)


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_named(case):
    assert ERRORS[case][1] in message_of(case)


def test_every_error_of_images_is_tested():
    places = unseen("modeling/inputs", map(message_of, ERRORS)) + unseen("modeling/heads", map(message_of, ERRORS))
    own = ("modeling/inputs/images", "modeling/inputs/patches", "modeling/inputs/reading", "modeling/heads/images")
    own += ("modeling/heads/patches",)
    assert [place for place in places if place.startswith(own)] == []


def test_the_default_config_of_images_is_one_of_them():
    config = TrineConfig(input_type="image")
    assert (config.image_size, config.patch_size, config.num_channels) == (224, 16, 3)
    assert "image_size" not in TrineConfig().to_dict() and not hasattr(TrineConfig(), "patch_size")
    assert IMAGE["image_size"] == image_config().image_size
