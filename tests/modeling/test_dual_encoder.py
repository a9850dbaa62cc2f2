"""Dual encoders: poolings and losses beside loops in float64, mixed sizes, packed texts, training, errors."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.duals import batch, dual_config, dual_encoder
from support.messages import unseen
from support.pictures import random_images
from support.tiny import random_ids
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification

from trine import TrineConfig, TrineDualEncoder, TrineDualEncoderConfig


def written_out(model: TrineDualEncoder, inputs: dict) -> torch.Tensor:
    """The logits of each text and image by a loop over pairs, from the states of the trunks."""
    config, rows = model.config, []
    for ids in inputs["input_ids"]:
        states = model.text_model(input_ids=ids[None]).last_hidden_state[0]
        place = {
            "cls": 0,
            "last": len(ids) - 1,
            "end": len(ids) - 1,
            "eos": ids.tolist().index(2) if 2 in ids.tolist() else None,
            "highest_id": ids.tolist().index(max(ids.tolist())),
        }
        pooled = sum(states) / len(states) if config.text_pooling == "mean" else states[place[config.text_pooling]]
        text = model.text_projection(pooled)
        row = []
        for image in inputs["pixel_values"]:
            states = model.vision_model(pixel_values=image[None]).last_hidden_state[0]
            picture = model.visual_projection(pool_image(model, states))
            cosine = (text @ picture) / (text @ text).sqrt() / (picture @ picture).sqrt()
            bias = 0.0 if model.logit_bias is None else model.logit_bias
            row.append(cosine * math.exp(model.logit_scale) + bias)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def pool_image(model: TrineDualEncoder, states: torch.Tensor) -> torch.Tensor:
    kind, pooling = model.config.vision_pooling, model.vision_pooling
    if kind != "attention":
        return states[0] if kind == "cls" else states[model.vision_model.embed_tokens.num_prefix_tokens :].mean(0)
    attention, size = pooling.attention, pooling.attention.head_dim
    query, keys, values = (
        getattr(attention, f"{name}_proj")(each).unflatten(-1, (-1, size))
        for name, each in (("q", pooling.probe), ("k", states), ("v", states))
    )
    groups = len(query) // keys.shape[1]
    heads = []
    for head, one in enumerate(query):
        weights = torch.stack([one @ key for key in keys[:, head // groups]]).mul(size**-0.5).softmax(0)
        heads.append(weights @ values[:, head // groups])
    read = attention.o_proj(torch.cat(heads))
    return read + pooling.mlp(pooling.layernorm(read))


CASES = {
    "softmax": {},
    "sigmoid": {"contrastive_loss": "sigmoid", "vision_pooling": "attention", "text_pooling": "end"},
    "CLIP": {"text": {"is_causal": True}, "text_pooling": "eos", "vision_pooling": "cls"},
    "highest": {"text": {"is_causal": True}, "text_pooling": "highest_id", "vision": {"num_register_tokens": 2}},
    "last": {"text_pooling": "last", "vision_pooling": "mean", "vision": {"num_register_tokens": 2}},
    "cls": {"text_pooling": "cls", "text_projection": "affine", "vision": {"use_cls_token": False}},
    "as they are": {
        "vision": {"hidden_size": 32, "attention_types": "linear, full"},
        "text": {"attention_types": "sliding, full"},
        "text_projection": "none",
        "vision_projection": "none",
        "projection_dim": 32,
    },
}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_and_loss_are_those_of_a_loop_over_pairs(case):
    model, inputs = dual_encoder(**CASES[case]), batch()
    expected = written_out(model, inputs)
    outputs = model(**inputs, return_loss=True)
    torch.testing.assert_close(outputs.logits_per_text, expected)
    torch.testing.assert_close(outputs.logits_per_image, expected.T)
    texts, images = range(3), range(3)
    if model.config.contrastive_loss == "sigmoid":
        loss = sum(math.log1p(math.exp(-expected[i, j] if i == j else expected[i, j])) for i in texts for j in images)
        loss /= 3
    else:
        of_texts = -sum(expected.log_softmax(1)[i, i] for i in texts) / 3
        loss = (of_texts - sum(expected.log_softmax(0)[i, i] for i in images) / 3) / 2
    assert float(outputs.loss) == pytest.approx(float(loss), rel=1e-9)
    assert model(**inputs).loss is None and model(**inputs, return_dict=False)[0].shape == (3, 3)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "mean", "attention"])
def test_images_of_several_sizes_are_those_by_themselves(pooling):
    model = dual_encoder(vision_pooling=pooling, vision={"num_register_tokens": 1})
    images = [random_images(3, *size, seed=size[0]) for size in ((12, 12), (4, 16), (8, 8))]
    together = model.get_image_features(images).pooler_output
    apart = torch.cat([model.get_image_features(image[None]).pooler_output for image in images])
    torch.testing.assert_close(together, apart)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "eos", "highest_id"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_packing_change_no_vector(pooling, side):
    model = dual_encoder(text_pooling=pooling)
    texts = [random_ids(1, length, seed=length) for length in (3, 7, 5)]
    for ids in texts:
        ids[:, -1] = 2
    apart = torch.cat([model.get_text_features(ids).pooler_output for ids in texts])
    ids, mask = torch.full((3, 9), 0), torch.zeros((3, 9), dtype=torch.long)
    for row, text in enumerate(texts):
        place = slice(0, text.shape[1]) if side == "right" else slice(9 - text.shape[1], 9)
        ids[row, place], mask[row, place] = text[0], 1
    torch.testing.assert_close(model.get_text_features(ids, attention_mask=mask).pooler_output, apart)
    positions = torch.cat([torch.arange(text.shape[1]) for text in texts])[None]
    packed = model.get_text_features(torch.cat(texts, dim=1), position_ids=positions).pooler_output
    torch.testing.assert_close(packed, apart)


def test_a_pooler_stands_before_the_projection():
    model = dual_encoder(text={"add_pooling_layer": True}, text_pooling="cls")
    ids = batch()["input_ids"]
    states = model.text_model(input_ids=ids).last_hidden_state[:, 0]
    expected = model.text_projection(torch.tanh(model.text_model.pooler.dense(states)))
    torch.testing.assert_close(model.get_text_features(ids).pooler_output, expected)


def test_defaults_follow_the_stacks():
    plain = dual_config()
    assert (plain.text_pooling, plain.vision_pooling, plain.text_config.is_causal) == ("mean", "cls", False)
    other = dual_config({"is_causal": True}, {"use_cls_token": False}, contrastive_loss="sigmoid")
    assert (other.text_pooling, other.vision_pooling) == ("last", "mean")
    model = TrineDualEncoder(other)
    assert model.logit_scale.exp().item() == pytest.approx(10) and model.logit_bias.item() == -10
    assert TrineDualEncoder(plain).logit_scale.exp().item() == pytest.approx(1 / 0.07)


def test_gradients_reach_every_weight_and_checkpointing_changes_none():
    model = dual_encoder(contrastive_loss="sigmoid", vision_pooling="attention").train()
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**batch(), return_loss=True).loss.backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert all(gradient.abs().sum() > 0 for name, gradient in found[0].items() if "bias" not in name)
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name])


def test_it_learns_which_text_belongs_to_which_image():
    torch.manual_seed(0)
    model, inputs = TrineDualEncoder(dual_config()).train(), batch(8, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(40):
        loss = model(**inputs, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = model.eval()(**inputs).logits_per_image
    assert loss < 0.1 and logits.argmax(1).tolist() == list(range(8)) == logits.argmax(0).tolist()


def test_adapters_reach_both_stacks_and_are_merged():
    torch.manual_seed(0)
    model, inputs = TrineDualEncoder(dual_config()).eval(), batch(dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False)).eval()
    places = {name.split(".")[2] for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert {"text_model", "vision_model"} <= places
    expected = adapted(**inputs).logits_per_image
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(**inputs).logits_per_image, expected, rtol=1e-4, atol=1e-4)


def test_saved_and_loaded_by_auto_classes_with_changed_fields(tmp_path):
    model = dual_encoder(dtype=torch.float32, vision_pooling="attention")
    model.save_pretrained(tmp_path)
    inputs = batch(dtype=torch.float32)
    for auto_class in (AutoModel, AutoModelForZeroShotImageClassification):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is TrineDualEncoder
        assert torch.equal(loaded(**inputs).logits_per_image, model(**inputs).logits_per_image)
    changed = AutoConfig.from_pretrained(tmp_path, text_config={"hidden_dropout": 0.5}, logit_bias_init_value=-1.0)
    assert changed.text_config.hidden_dropout == 0.5 and changed.text_config.hidden_size == 32
    assert changed.vision_config.to_dict() == model.config.vision_config.to_dict()
    assert changed.logit_bias_init_value == -1.0
    model.resize_token_embeddings(64)
    assert model.text_model.embed_tokens.weight.shape[0] == 64 == model.config.text_config.vocab_size


def test_a_note_in_a_stack_is_kept(tmp_path, caplog):
    config = dual_config()
    again = TrineDualEncoderConfig.from_dict(
        {**config.to_dict(), "text_config": {**config.text_config.to_dict(), "a_note": 1}}
    )
    assert again.text_config.a_note == 1


@torch.no_grad()
def test_states_that_were_pooled_before_take_the_place_of_texts():
    model, inputs = dual_encoder(text_projection="affine"), batch()
    states = model.read_texts(inputs.pop("input_ids")).pooler_output
    outputs = model(**inputs, text_states=states, return_loss=True)
    expected = model(**batch(), return_loss=True)
    assert torch.equal(outputs.logits_per_text, expected.logits_per_text) and outputs.loss == expected.loss


MESSAGES = {
    "text_states are given beside input_ids or inputs_embeds: give one of them.": lambda: dual_encoder()(
        **batch(), text_states=torch.zeros(3, 32)
    ),
    "text_config.input_type='image', but a TrineDualEncoderConfig needs 'tokens'.": lambda: TrineDualEncoderConfig(
        text_config={"input_type": "image"}
    ),
    "vision_config.is_causal=True, but a TrineDualEncoderConfig needs False.": lambda: dual_config(
        vision={"is_causal": True}
    ),
    "text_config is a LlamaConfig, but must be a TrineConfig, or its fields.": lambda: TrineDualEncoderConfig(
        text_config=AutoConfig.for_model("llama")
    ),
    "vision_config: image_size=30 is not a multiple of patch_size=4. The nearest that are: [28, 32].": lambda: (
        dual_config(vision={"image_size": 30})
    ),
    "text_config.prefix_lm=True, but the stacks of a dual encoder read one input each.": lambda: dual_config(
        {"prefix_lm": True, "is_causal": True}
    ),
    "text_pooling='first' is not one of": lambda: dual_config(text_pooling="first"),
    "vision_pooling='cls' reads the class token, but vision_config.use_cls_token=False": lambda: dual_config(
        vision={"use_cls_token": False}, vision_pooling="cls"
    ),
    "text_pooling='cls' reads the first token, which sees no other with": lambda: dual_config(
        {"is_causal": True}, text_pooling="cls"
    ),
    "text_pooling='eos' reads the state of text_config.eos_token_id, which is None.": lambda: dual_config(
        {"eos_token_id": None}, text_pooling="eos"
    ),
    "projection_dim=0 must be at least 1.": lambda: dual_config(projection_dim=0),
    "vision_projection='none' needs vision_config.hidden_size=48 to be projection_dim=16.": lambda: dual_config(
        vision_projection="none"
    ),
    "TrineDualEncoderConfig has no field 'hidden_size'.": lambda: dual_config(hidden_size=3),
    "input_ids of texts [1] hold no eos_token_id=2, whose state text_pooling='eos' reads": lambda: dual_encoder(
        text_pooling="eos"
    ).get_text_features(torch.tensor([[5, 2], [5, 6]])),
    "text_pooling='eos' reads input_ids, but inputs_embeds are given alone.": lambda: dual_encoder(
        text_pooling="eos"
    ).get_text_features(inputs_embeds=torch.zeros((1, 2, 32), dtype=torch.float64)),
    "text_pooling='end' reads the last place of a row, so that a row cannot pack several": lambda: dual_encoder(
        text_pooling="end"
    ).get_text_features(torch.tensor([[5, 2, 6, 7]]), position_ids=torch.tensor([[0, 1, 0, 1]])),
    "return_loss=True pairs each text with an image, but there are 3 texts and 2 images.": lambda: dual_encoder()(
        **{**batch(), "pixel_values": random_images(2, 3, 12, 12)}, return_loss=True
    ),
    "pixel_values have a height of 10 pixels, which is not a multiple of patch_size=4.": lambda: dual_encoder()(
        **{**batch(), "pixel_values": random_images(2, 3, 10, 12)}
    ),
    "input_type='image' reads pixel_values, which is missing.": lambda: dual_encoder()(input_ids=random_ids(1, 2)),
    "pixel_values=[] holds no image.": lambda: dual_encoder()(input_ids=random_ids(1, 2), pixel_values=[]),
    "Exactly one of input_ids and inputs_embeds must be given.": lambda: dual_encoder()(
        pixel_values=random_images(1, 3, 12, 12)
    ),
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
    own = ("modeling/modeling_trine_dual", "modeling/tower_pooling", "configuration/configuration_trine_dual")
    assert [place for place in places if place.startswith((*own, "configuration/nested_configs"))] == []


def test_a_stack_of_ones_own_serves_another_model_too():
    text = TrineConfig(**{**dual_config().text_config.to_dict()})
    config = dual_config()
    other = TrineDualEncoderConfig(text_config=text, vision_config=config.vision_config, projection_dim=4)
    other.text_config.hidden_dropout = 0.5
    assert text.hidden_dropout == 0
