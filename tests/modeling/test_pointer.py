"""The pointer-generator head equals the loop, learns to copy, and is saved, adapted and run in other precision."""

import pytest
import torch
from support import reference
from support.pointers import MODELS, SMALL, TOKENS, TOLERANCES, gradients, oracle_tensors, pointer_model, sources
from support.tiny import SIZES, has_deferred_logits, random_ids
from torch import nn
from transformers import AutoModelForSeq2SeqLM

from trine import TrineForConditionalGeneration, TrineRecurrentConfig, TrineSeq2SeqConfig
from trine.modeling.heads.pointer import coverage_loss, first_positions
from trine.modeling.heads.pointer_losses import mix_copies


EVERY_MODEL = pytest.mark.parametrize("name", MODELS)


@EVERY_MODEL
@pytest.mark.parametrize("side", ["right", "left"])
def test_log_probabilities_loss_and_gradients_equal_the_loop(side, name):
    model = pointer_model(name, coverage_loss_coef=0.5)
    rows, inputs = sources(side)
    labels = random_ids(3, 5, seed=5, vocab_size=9)
    labels[1, 3:] = -100
    tensors = oracle_tensors(model)
    weights = reference.Weights(tensors)
    targets = model.prepare_decoder_input_ids_from_labels(labels).tolist()
    pairs = [(row.tolist(), target) for row, target in zip(rows, targets, strict=True)]
    expected = torch.stack([reference.pointer_log_probs(model.config, weights, *pair) for pair in pairs])
    outputs = model(**inputs, labels=labels)
    torch.testing.assert_close(outputs.logits, expected, **TOLERANCES)
    torch.testing.assert_close(outputs.logits.exp().sum(dim=-1), torch.ones(3, 5).double())
    total, count = reference.cross_entropy(expected.flatten(0, 1), labels.flatten().tolist())
    torch.testing.assert_close(outputs.loss, total / count, **TOLERANCES)  # in evaluation without the coverage
    covered = sum(
        loss
        for pair, row in zip(pairs, labels.tolist(), strict=True)
        for loss, label in zip(reference.pointer_coverage(model.config, weights, *pair), row, strict=True)
        if label != -100
    )
    model.config.decoder.router_aux_loss_coef = 0.0
    trained = model.train()(**inputs, labels=labels)
    assert has_deferred_logits(trained)
    torch.testing.assert_close(trained.loss, (total + 0.5 * covered) / count, **TOLERANCES)
    trained.loss.backward()
    ((total + 0.5 * covered) / count).backward()
    torch.testing.assert_close(trained.logits, expected, **TOLERANCES)
    for key, parameter in model.named_parameters():
        other = tensors[key].grad if tensors[key].grad is not None else torch.zeros_like(tensors[key])
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
    assert model.pointer.gate.weight.grad.abs().max() > 1e-4 and model.pointer.query.weight.grad.abs().max() > 1e-4


@pytest.mark.parametrize("chunk_size", [1, 4, 1024])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_in_chunks_is_that_of_whole_logits(chunk_size, smoothing):
    model, (_, inputs) = pointer_model("t5").train(), sources()
    labels = random_ids(3, 5, seed=5, vocab_size=9)
    labels[0, :2] = -100
    found = []
    for size in (None, chunk_size):
        model.config.decoder.loss_chunk_size = size
        model.zero_grad()
        outputs = model(**inputs, labels=labels, label_smoothing=smoothing, num_items_in_batch=7)
        assert has_deferred_logits(outputs) is (size is not None)
        (3 * outputs.loss).backward()
        found.append((outputs.loss.detach(), gradients(model)))
    whole, chunked = found
    torch.testing.assert_close(chunked[0], whole[0], rtol=1e-12, atol=1e-12)
    for key, gradient in whole[1].items():
        torch.testing.assert_close(chunked[1][key], gradient, rtol=1e-9, atol=1e-11, msg=lambda m, k=key: f"{k}: {m}")
    model.zero_grad()
    empty = model(**inputs, labels=torch.full_like(labels, -100))
    empty.loss.backward()
    assert empty.loss == 0 and all(not gradient.any() for gradient in gradients(model).values())


def test_a_frozen_head_gets_no_gradient():
    model, (_, inputs) = pointer_model("t5").train(), sources()
    labels = random_ids(3, 5, vocab_size=9)
    model(**inputs, labels=labels).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    frozen = [model.lm_head.weight, *model.model.parameters(), model.pointer.gate.weight]
    for parameter in frozen:
        parameter.requires_grad_(False)
    model(**inputs, labels=labels).loss.backward()
    found = gradients(model)
    assert {name.split(".")[0] for name in found} == {"pointer"} and "pointer.gate.weight" not in found
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])


@pytest.mark.parametrize("gate", [-300.0, 0.0, 300.0])
def test_parts_that_vanish_stay_finite(gate):
    """Against float64 for logits far apart, a gate at either end, and attention to one token alone."""
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 7) * 60
    ids = torch.tensor([[1, 4, 1, 6], [2, 2, 2, 2]])[:, None].expand(2, 3, 4)
    weights = (torch.randn(2, 3, 4) * 200).softmax(dim=-1)
    slots = first_positions(ids[:, 0], 7)
    assert slots.tolist() == [[0, 1, 0, 3], [0, 0, 0, 0]]
    copied = torch.zeros_like(weights).scatter_add(-1, slots[:, None].expand_as(weights), weights)
    leaves = [logits, torch.full((2, 3, 1), gate), copied]
    found = []
    for dtype in (torch.float32, torch.float64):
        parts = [leaf.detach().to(dtype, copy=True).requires_grad_() for leaf in leaves]
        log_probs = mix_copies(*parts, ids)
        assert log_probs.dtype == dtype and log_probs.isfinite().all()
        log_probs[..., 1].sum().backward()
        assert all(part.grad.isfinite().all() for part in parts)
        found.append((log_probs, *(part.grad for part in parts[:2])))
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)
    if gate == 0:
        p = 0.5 * torch.nn.functional.one_hot(ids, 7).mul(weights[..., None]).sum(2).double()
        p = p + 0.5 * logits.double().softmax(-1)
        torch.testing.assert_close(found[1][0].exp(), p, rtol=1e-6, atol=1e-12)


def test_the_coverage_loss_by_hand():
    weights = torch.tensor([[[0.5, 0.5, 0.0], [0.2, 0.8, 0.0], [0.5, 0.3, 0.2]]])
    second, third = 0.2 + 0.5, 0.5 + 0.3
    labels = torch.tensor([[3, 4, 5]])
    assert float(coverage_loss(weights, labels, None)) == pytest.approx((second + third) / 3)
    assert float(coverage_loss(weights, torch.tensor([[3, -100, 5]]), 4)) == pytest.approx(third / 4)


# What is learned


def copying_task(generator: torch.Generator, rows: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """A source of six random tokens of 1,000, and as target the three after the mark, which is token 3."""
    ids = torch.randint(4, 1000, (rows, 7), generator=generator)
    places = torch.randint(0, 4, (rows, 1), generator=generator)
    ids.scatter_(1, places, 3)
    return ids, ids.gather(1, places + torch.arange(1, 4))


def share_copied(**fields) -> float:
    torch.manual_seed(0)
    stack = {**SIZES, **TOKENS, "vocab_size": 1000, "position_type": "learned", "initializer_range": 0.1}
    model = TrineForConditionalGeneration(TrineSeq2SeqConfig(encoder=stack, decoder=stack, **fields))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(100):
        ids, labels = copying_task(draws)
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ids, labels = copying_task(draws, rows=100)
    written = model.eval().generate(ids, max_new_tokens=3, eos_token_id=None, do_sample=False)[:, 1:]
    return float((written == labels).float().mean())


def test_the_head_learns_to_copy_in_steps_in_which_a_model_without_it_does_not():
    assert share_copied(pointer_size=16) > 0.9
    assert share_copied() < 0.2


# Saving, adapting, other precision


def test_a_checkpoint_gets_a_new_head_and_keeps_it(tmp_path):
    torch.manual_seed(0)
    stack = {**SMALL, **TOKENS}
    TrineForConditionalGeneration(TrineSeq2SeqConfig(encoder=stack, decoder=stack)).save_pretrained(tmp_path / "old")
    model, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "old", pointer_size=8, output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"pointer"} and not info["unexpected_keys"]
    assert float(model.pointer.gate.bias) == 1.0 and not model.pointer.query.bias.any()
    assert 0.01 < model.pointer.state_key.weight.std() < 0.03  # initializer_range
    model.save_pretrained(tmp_path / "new")
    again, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not any(info.values())
    ids = random_ids(2, 6, vocab_size=23)
    assert torch.equal(again(ids, labels=ids).logits, model.eval()(ids, labels=ids).logits)


def test_half_precision_is_near_and_its_log_probabilities_are_single():
    model, (_, inputs) = pointer_model("t5", torch.float32, scale=1.0), sources()
    labels = random_ids(3, 5, vocab_size=9)
    expected = model(**inputs, labels=labels)
    half = pointer_model("t5", torch.bfloat16, scale=1.0)
    actual = half(**inputs, labels=labels)
    assert actual.logits.dtype == torch.float32
    torch.testing.assert_close(actual.loss, expected.loss, rtol=0.05, atol=0.05)
    trained = half.train()(**inputs, labels=labels)
    trained.loss.backward()
    assert trained.logits.dtype == torch.float32 and all(g.isfinite().all() for g in gradients(half).values())
    torch.testing.assert_close(trained.loss, actual.loss, rtol=1e-2, atol=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = model.train()(**inputs, labels=labels)
    trained.loss.backward()
    torch.testing.assert_close(trained.loss, expected.loss, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant):
    model, (_, inputs) = pointer_model("rope").train(), sources()
    labels = random_ids(3, 5, vocab_size=9)
    model(**inputs, labels=labels).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model(**inputs, labels=labels).loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], msg=lambda m, k=name: f"{k}: {m}")


def test_adapters_of_attention_leave_the_head_alone_or_train_it_whole():
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(pointer_model("t5", torch.float32), LoraConfig(modules_to_save=["pointer"]))
    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert any("pointer.modules_to_save" in name for name in names)
    assert not any("pointer" in name for name in names if "lora" in name)
    _, inputs = sources()
    adapted.train()(**inputs, labels=random_ids(3, 5, vocab_size=9)).loss.backward()
    missing = [name for name, p in adapted.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    every = get_peft_model(pointer_model("t5", torch.float32), LoraConfig(target_modules="all-linear"))
    assert any("pointer.query.lora_A" in name for name, _ in every.named_parameters())
    every.train()(**inputs, labels=random_ids(3, 5, vocab_size=9)).loss.backward()


def test_a_head_with_hooks_is_called():
    """Whole logits, where `lm_head` is more than a product."""
    model, (_, inputs) = pointer_model("t5").train(), sources()
    labels = random_ids(3, 5, vocab_size=9)
    expected = model(**inputs, labels=labels).loss
    calls = []
    model.lm_head.register_forward_hook(lambda module, args, output: calls.append(output.shape))
    outputs = model(**inputs, labels=labels)
    assert calls and not has_deferred_logits(outputs)
    torch.testing.assert_close(outputs.loss, expected)


def test_a_loss_of_the_users_own_gets_log_probabilities():
    model, (_, inputs) = pointer_model("t5").train(), sources()
    labels = random_ids(3, 5, vocab_size=9)
    seen = []
    model.loss_function = lambda logits, labels, vocab_size, **kwargs: seen.append(logits) or logits.mean()
    outputs = model(**inputs, labels=labels)
    torch.testing.assert_close(seen[0].exp().sum(dim=-1), torch.ones(3, 5).double())
    assert torch.equal(outputs.loss, seen[0].mean())


# Errors


def test_what_lacks_the_ids_of_the_source_is_refused():
    model, (_, inputs) = pointer_model("t5"), sources()
    states, target = model.get_encoder()(**inputs), random_ids(3, 4, vocab_size=9)
    mask = {"attention_mask": inputs["attention_mask"]}
    message = "pointer_size=12: the head copies tokens of the source, whose ids are missing. Give input_ids beside"
    for given in ({"encoder_outputs": states}, {"inputs_embeds": nn.Embedding(23, 32).double()(inputs["input_ids"])}):
        with pytest.raises(ValueError, match=message):
            model(**given, **mask, decoder_input_ids=target)
        with pytest.raises(ValueError, match=message):
            model.generate(**given, **mask, max_new_tokens=2)
    with pytest.raises(ValueError, match=r"input_ids have shape \(3, 10\), but the encoder's states are of \(3, 11\)"):
        model(input_ids=inputs["input_ids"][:, 1:], encoder_outputs=states, **mask, decoder_input_ids=target)
    ready = torch.zeros(3, 1, 4, 11).double()
    with pytest.raises(ValueError, match=r"attention_mask has shape \(3, 1, 4, 11\), but must be \(3, 11\), 1 for"):
        model(inputs["input_ids"], ready, encoder_outputs=states, decoder_input_ids=target)


def test_the_recurrent_baseline_has_no_pointer():
    with pytest.raises(ValueError, match="TrineRecurrentConfig has no field 'pointer_size'"):
        TrineRecurrentConfig(pointer_size=8)
