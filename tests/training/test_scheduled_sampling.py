"""Scheduled sampling: the schedule's values, what is read in place of true tokens, and what training sees of it."""

import pytest
import torch
from support import recurrent
from transformers import Seq2SeqTrainingArguments

from trine import TrineForConditionalGeneration, TrineSeq2SeqConfig
from trine.training.run import trainers
from trine.training.run.trainers import SCHEDULES, ScheduledSamplingTrainer, mix_inputs


PAD = 0


def transformer():
    torch.manual_seed(0)
    sizes = {"vocab_size": 41, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return TrineForConditionalGeneration(TrineSeq2SeqConfig.from_preset("tiny", intermediate_size=16, **sizes))


def pairs(rows=6, source=9, target=7):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, 41, (rows, target), generator=generator)
    labels[1, 4:] = -100
    return {"input_ids": torch.randint(3, 41, (rows, source), generator=generator), "labels": labels}


def most_probable(logits):
    return logits.argmax(-1)


MODELS = {"transformer": transformer, "recurrent": lambda: recurrent.tiny_model(dtype=torch.float32)}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_begin_with_true_tokens_and_fall(name):
    values = [SCHEDULES[name](step / 10) for step in range(11)]
    assert values[0] == pytest.approx(1, abs=0.01) and values == sorted(values, reverse=True)
    assert SCHEDULES["exponential"](1.0) == 0.6 and SCHEDULES["exponential"](0.5) == pytest.approx(0.6**0.5)
    assert SCHEDULES["linear"](0.5) == pytest.approx(0.8) and SCHEDULES["inverse_sigmoid"](0.5) == pytest.approx(0.8)


@pytest.mark.parametrize("name", MODELS)
def test_with_true_tokens_only_nothing_changes(name):
    model, inputs = MODELS[name](), pairs()
    expected = model.prepare_decoder_input_ids_from_labels(inputs["labels"])
    assert torch.equal(mix_inputs(model, inputs, 1.0), expected)
    assert torch.equal(mix_inputs(model, {**inputs, "decoder_input_ids": expected}, 1.0), expected)
    assert model.training


def test_the_recurrent_model_reads_what_it_would_generate(monkeypatch):
    monkeypatch.setattr(trainers, "draw", most_probable)
    model, inputs = MODELS["recurrent"](), pairs()
    inputs["labels"][1, 4:] = 5
    mixed = mix_inputs(model, inputs, 0.0)
    expected = model.eval().generate(
        inputs["input_ids"], max_new_tokens=mixed.shape[1] - 1, do_sample=False, num_beams=1, eos_token_id=-1
    )
    assert torch.equal(mixed, expected)


def test_the_transformer_reads_what_it_predicts_after_true_tokens(monkeypatch):
    monkeypatch.setattr(trainers, "draw", most_probable)
    model, inputs = MODELS["transformer"](), pairs()
    true = model.prepare_decoder_input_ids_from_labels(inputs["labels"])
    mixed = mix_inputs(model, inputs, 0.0)
    with torch.no_grad():
        logits = model.eval()(input_ids=inputs["input_ids"], decoder_input_ids=true).logits
    assert torch.equal(mixed[:, 0], true[:, 0])
    real = true != PAD
    real[:, 0] = False
    assert torch.equal(mixed[real], logits.argmax(-1).roll(1, dims=1)[real])
    assert (mixed[true == PAD] == PAD).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_share_of_true_tokens_is_that_of_the_schedule(name, monkeypatch):
    monkeypatch.setattr(trainers, "draw", lambda logits: logits.argmax(-1) * 0 + 2)  # no true token is 2
    model, inputs = MODELS[name](), pairs(rows=400, target=9)
    mixed = mix_inputs(model, inputs, 0.7)
    real = model.prepare_decoder_input_ids_from_labels(inputs["labels"])[:, 1:] != PAD
    assert (mixed[:, 1:][real] != 2).float().mean() == pytest.approx(0.7, abs=0.04)  # 3,197 tokens, 5 deviations


def test_tokens_are_drawn_from_the_distribution():
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    drawn = trainers.draw(probabilities.log().expand(100, 100, 3))
    for token, expected in enumerate(probabilities):
        assert (drawn == token).float().mean() == pytest.approx(float(expected), abs=0.025)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_training_reads_mixed_tokens_and_evaluation_true_ones(name, smoothing, tmp_path, monkeypatch):
    model, seen = MODELS[name](), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((torch.is_grad_enabled(), kwargs["decoder_input_ids"])),
        with_kwargs=True,
    )
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        logging_steps=1,
        learning_rate=0,
        per_device_train_batch_size=6,
        label_smoothing_factor=smoothing,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    inputs = pairs()
    true = model.prepare_decoder_input_ids_from_labels(inputs["labels"])
    data = [{**{key: value[row] for key, value in inputs.items()}, "decoder_input_ids": true[row]} for row in range(6)]
    monkeypatch.setattr(trainers, "draw", lambda logits: logits.argmax(-1) * 0 + 2)
    trainer = ScheduledSamplingTrainer(model, arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    history = [entry["teacher_forcing"] for entry in trainer.state.log_history if "loss" in entry]
    assert history == [round(0.6 ** (step / 3), 4) for step in (1, 2, 3)]
    trained_on = [(ids == 2).sum().item() for has_gradient, ids in seen if has_gradient]
    assert len(trained_on) == 3 and trained_on[0] == 0 and min(trained_on[1:]) > 0
    seen.clear()
    trainer.evaluate()
    assert all(not (ids == 2).any() for _, ids in seen)


def test_an_unknown_schedule(tmp_path):
    with pytest.raises(ValueError, match=r"schedule='exponentail' is not one of \['exponential', 'linear'"):
        ScheduledSamplingTrainer(schedule="exponentail")
