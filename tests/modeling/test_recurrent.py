"""The recurrent models compute what the papers say, whatever the padding; their losses, outputs and errors."""

import pytest
import torch
from support.late_model_errors import other_transformers
from support.messages import unseen
from support.recurrent import (
    BOS,
    EOS,
    PAD,
    VARIANTS,
    leaves,
    pad_rows,
    predict,
    random_ids,
    tiny_config,
    tiny_model,
)
from support.recurrent_errors import model_errors
from support.tiny import has_deferred_logits
from torch import nn

from trine.configuration.configuration_trine_recurrent import RECURRENT_ATTENTIONS
from trine.modeling.modeling_trine_recurrent import TrineRecurrentForConditionalGeneration
from trine.modeling.recurrent.layers import CONTEXTS
from trine.modeling.recurrent.stacks import TrineRecurrentEncoder


EVERY_VARIANT = pytest.mark.parametrize("name", VARIANTS)
SOURCES = [random_ids(length, seed=length) for length in (1, 2, 7)]
TARGETS = [random_ids(length, seed=10 + length) for length in (7, 1, 2)]


def ragged_labels() -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(TARGETS, batch_first=True, padding_value=-100)


def decoder_inputs(target: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.tensor([BOS]), target[:-1]])


def losses_and_gradients(model, **inputs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_equal_tensors(actual: dict, expected: dict, **tolerances) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, **tolerances, msg=lambda text, name=name: f"{name}: {text}")


# What is computed


@EVERY_VARIANT
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_ragged_batch_equals_the_loops(side, name):
    """Logits, attention weights and the gradient of every parameter, for lengths 1, 2 and 7 on both sides."""
    model = tiny_model(name)
    labels = ragged_labels()
    outputs = model(**pad_rows(SOURCES, side, extra=3), labels=labels, output_attentions=True)
    weights = leaves(model)
    losses, width = [], 10
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        logits, attention = predict(model.config, weights, source, decoder_inputs(target))
        torch.testing.assert_close(outputs.logits[row, : len(target)], logits)
        losses.append(-logits.log_softmax(-1)[range(len(target)), target])
        if attention is not None:
            place = slice(len(source)) if side == "right" else slice(width - len(source), width)
            torch.testing.assert_close(outputs.cross_attentions[0][row, 0, : len(target), place], attention)
    loss = torch.cat(losses).mean()
    torch.testing.assert_close(outputs.loss.double(), loss, rtol=1e-6, atol=1e-6)  # the library's loss is in float32
    loss.backward()
    gradients = losses_and_gradients(model.train(), **pad_rows(SOURCES, side, extra=3), labels=labels)
    torch.testing.assert_close(gradients.pop("loss"), loss.detach())
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, weights[key].grad, msg=lambda text, key=key: f"{key}: {text}")
        assert gradient.abs().max() > 0, key


@EVERY_VARIANT
def test_padding_of_any_amount_on_any_side_changes_nothing(name):
    model = tiny_model(name)
    target = torch.stack([decoder_inputs(random_ids(4, seed=5))])
    for source in SOURCES:
        alone = model(source[None], decoder_input_ids=target, output_attentions=True)
        for side in ("left", "right"):
            for extra in (0, 1, 5):
                padded = pad_rows([source, random_ids(3)], side, extra)
                outputs = model(**padded, decoder_input_ids=target.expand(2, -1), output_attentions=True)
                torch.testing.assert_close(outputs.logits[:1], alone.logits, rtol=1e-12, atol=1e-12)
                is_padding = padded["attention_mask"] == 0
                assert not outputs.encoder_last_hidden_state[is_padding].any()
                for weights in outputs.cross_attentions:
                    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
                    assert not weights[is_padding[:, None, None].expand_as(weights)].any()


@EVERY_VARIANT
def test_padding_between_tokens_and_its_ids_change_nothing(name):
    model, ids = tiny_model(name), random_ids(2, 6)
    mask = torch.tensor([[0, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1]])
    labels = random_ids(2, 4, seed=1)
    outputs = model(ids, attention_mask=mask, labels=labels)
    alone = model(ids[:1, mask[0] == 1], labels=labels[:1])
    torch.testing.assert_close(outputs.logits[:1], alone.logits, rtol=1e-12, atol=1e-12)
    assert torch.equal(model(ids.where(mask == 1, PAD), attention_mask=mask, labels=labels).logits, outputs.logits)


@EVERY_VARIANT
def test_padding_of_the_target_changes_nothing(name):
    model, source = tiny_model(name), random_ids(3, 5)
    for side in ("left", "right"):
        targets = [decoder_inputs(target) for target in TARGETS]
        padded = {f"decoder_{key}": value for key, value in pad_rows(targets, side, extra=2).items()}
        outputs = model(source, **padded)
        for row, target in enumerate(targets):
            alone = model(source[row : row + 1], decoder_input_ids=target[None])
            real = padded["decoder_attention_mask"][row] == 1
            torch.testing.assert_close(outputs.logits[row, real], alone.logits[0], rtol=1e-12, atol=1e-12)
            for layer in range(model.config.num_hidden_layers):
                for state, other in zip(
                    outputs.past_key_values.get_state(layer), alone.past_key_values.get_state(layer), strict=True
                ):
                    torch.testing.assert_close(state[row], other[0], rtol=1e-12, atol=1e-12)


@EVERY_VARIANT
def test_a_mask_of_ones_is_no_mask(name):
    model, ids = tiny_model(name), random_ids(2, 6)
    ones = torch.ones_like(ids)
    outputs = model(ids, attention_mask=ones, decoder_input_ids=ids, decoder_attention_mask=ones)
    assert torch.equal(outputs.logits, model(ids, decoder_input_ids=ids).logits)


@EVERY_VARIANT
def test_the_decoder_sees_no_later_token(name):
    model, ids, target = tiny_model(name), random_ids(2, 6), random_ids(2, 8, seed=1)
    changed = target.clone()
    changed[:, 5] = 9
    logits, other = (model(ids, decoder_input_ids=each).logits for each in (target, changed))
    assert torch.equal(logits[:, :5], other[:, :5]) and not torch.isclose(logits[:, 5:], other[:, 5:]).all()


def test_the_attention_table_is_complete():
    assert (
        CONTEXTS.keys()
        == RECURRENT_ATTENTIONS.keys()
        == {fields.get("attention", "dot") for fields in VARIANTS.values()}
    )


def test_dropout_acts_in_training_only():
    inputs = {"input_ids": random_ids(2, 6), "decoder_input_ids": random_ids(2, 6)}
    dropped, plain = tiny_model("none", hidden_dropout=0.5), tiny_model("none")
    assert torch.equal(dropped(**inputs).logits, plain(**inputs).logits)
    assert torch.equal(plain.train()(**inputs).logits, plain.eval()(**inputs).logits)
    output = dropped.train().model(**inputs)
    assert (output.last_hidden_state == 0).double().mean().item() == pytest.approx(0.5, abs=0.15)
    assert not torch.equal(output.last_hidden_state, dropped.model(**inputs).last_hidden_state)


# The loss


def test_labels_are_aligned_and_shifted_into_inputs():
    model, ids = tiny_model(), random_ids(3, 5)
    labels = ragged_labels()
    inputs = model.prepare_decoder_input_ids_from_labels(labels)
    assert inputs[1].tolist() == [BOS, TARGETS[1][0], *[PAD] * 5]
    outputs = model(ids, labels=labels)
    logits = model(ids, decoder_input_ids=inputs).logits
    assert torch.equal(outputs.logits, logits)
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(outputs.loss, expected)


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_the_chunked_loss_is_the_ordinary_loss(chunk):
    inputs = {"input_ids": random_ids(3, 5), "labels": ragged_labels()}
    for items in ({}, {"num_items_in_batch": 40}, {"num_items_in_batch": torch.tensor(40)}):
        expected = losses_and_gradients(tiny_model(loss_chunk_size=None).train(), **inputs, **items)
        model = tiny_model(loss_chunk_size=chunk).train()
        assert has_deferred_logits(model(**inputs, **items))
        actual = losses_and_gradients(model, **inputs, **items)
        assert_equal_tensors({k: v.float() for k, v in actual.items()}, {k: v.float() for k, v in expected.items()})
    plain = tiny_model()(**inputs).loss
    torch.testing.assert_close(actual["loss"] * 40 / 10, plain)  # ten labels


def test_accumulated_gradients_are_those_of_the_whole_batch():
    ids, labels = random_ids(3, 5), ragged_labels()
    whole = losses_and_gradients(tiny_model().train(), input_ids=ids, labels=labels)
    model = tiny_model().train()
    for row in range(3):
        model(ids[row : row + 1], labels=labels[row : row + 1], num_items_in_batch=10).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name])


def test_training_without_labels_gives_logits():
    """As label smoothing in `Trainer` needs them."""
    model = tiny_model().train()
    assert model(random_ids(2, 5), decoder_input_ids=random_ids(2, 3)).logits.shape == (2, 3, 41)


# Interface


@EVERY_VARIANT
def test_hidden_states_and_attentions_are_recorded(name):
    model, ids = tiny_model(name), random_ids(2, 5)
    outputs = model(ids, decoder_input_ids=ids[:, :3], output_hidden_states=True, output_attentions=True)
    layers = model.config.num_hidden_layers
    assert [state.shape for state in outputs.encoder_hidden_states] == [(2, 5, 12)] * (layers + 1)
    assert [state.shape for state in outputs.decoder_hidden_states] == [(2, 3, 12)] * (layers + 1)
    assert torch.equal(outputs.encoder_hidden_states[0], model.get_input_embeddings()(ids))
    assert torch.equal(outputs.encoder_hidden_states[-1], outputs.encoder_last_hidden_state)
    assert torch.equal(model.lm_head(outputs.decoder_hidden_states[-1]), outputs.logits)
    shapes = [(2, 1, 3, 5)] if model.config.attention == "dot" else []
    assert [weights.shape for weights in outputs.cross_attentions] == shapes
    plain = model(ids, decoder_input_ids=ids)
    assert plain.encoder_hidden_states is plain.decoder_hidden_states is plain.cross_attentions is None


def test_embeddings_and_encoder_outputs_may_be_given():
    model, ids, target = tiny_model(), random_ids(2, 5), random_ids(2, 3, seed=1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    expected = model(ids, attention_mask=mask, decoder_input_ids=target)
    embed = model.get_input_embeddings()
    embedded = model(inputs_embeds=embed(ids), decoder_inputs_embeds=embed(target), attention_mask=mask)
    encoded = model(
        encoder_outputs=model.get_encoder()(ids, attention_mask=mask), decoder_input_ids=target, attention_mask=mask
    )
    assert torch.equal(embedded.logits, expected.logits) and torch.equal(encoded.logits, expected.logits)
    assert model.get_encoder() is model.model.encoder and model.get_decoder() is model.model.decoder
    assert isinstance(model.get_encoder(), TrineRecurrentEncoder)


def test_logits_to_keep_and_tuples():
    model, ids = tiny_model(), random_ids(2, 5)
    inputs = {"input_ids": ids, "decoder_input_ids": ids}
    logits = model(**inputs).logits
    torch.testing.assert_close(model(**inputs, logits_to_keep=2).logits, logits[:, -2:])
    torch.testing.assert_close(model(**inputs, logits_to_keep=torch.tensor([0, 3])).logits, logits[:, [0, 3]])
    assert torch.equal(model(**inputs, return_dict=False)[0], logits)


@pytest.mark.parametrize("case", model_errors())
def test_bad_input_is_named(case):
    run, message = model_errors()[case]
    with pytest.raises(ValueError) as caught:
        run()
    assert str(caught.value) == message


def test_every_error_of_the_models_is_tested(monkeypatch):
    messages = [message for _, message in model_errors().values()]
    places = unseen("modeling", messages + other_transformers(monkeypatch))
    assert [place for place in places if "recurrent" in place] == []


@EVERY_VARIANT
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant, name):
    inputs = {**pad_rows(SOURCES), "labels": ragged_labels()}
    expected = losses_and_gradients(tiny_model(name).train(), **inputs)
    model = tiny_model(name).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    assert_equal_tensors(losses_and_gradients(model, **inputs), expected)


# Learning


def copy_batch(size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Words of 3 to 7 letters, to be repeated."""
    lengths = torch.randint(3, 8, (size, 1), generator=generator)
    ids = torch.randint(3, 19, (size, 8), generator=generator)
    place = torch.arange(8)
    labels = ids.where(place < lengths, torch.tensor(EOS)).where(place <= lengths, torch.tensor(-100))
    return {"input_ids": ids, "attention_mask": (place < lengths).long(), "labels": labels}


@pytest.mark.slow
def test_attention_learns_to_copy():
    generator = torch.Generator().manual_seed(0)
    config = tiny_config(vocab_size=19, hidden_size=64, num_hidden_layers=1)
    model = TrineRecurrentForConditionalGeneration(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=600)
    for _ in range(600):
        model(**copy_batch(64, generator)).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    batch = copy_batch(300, generator)
    labels = batch.pop("labels")
    generated = model.eval().generate(**batch, max_new_tokens=8, do_sample=False)[:, 1:]
    generated = nn.functional.pad(generated, (0, 8 - generated.shape[1]), value=PAD)
    assert torch.equal(generated.where(labels != -100, -100), labels)
