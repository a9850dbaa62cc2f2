"""Random features of Performer layers: drawn anew on time, and alike in a resumed run."""

import pytest
import torch
from support.tiny import SIZES, tiny_config
from transformers import Trainer, TrainingArguments

from trine import TrineForCausalLM, TrineForConditionalGeneration, TrineSeq2SeqConfig
from trine.modeling.attention.performer import PerformerAttention
from trine.training.run.callbacks import RandomFeatureCallback


def make_trainer(folder, model=None, **options) -> Trainer:
    torch.manual_seed(0)
    fields = {"attention_types": "performer, full", "performer_redraw_interval": 2, "use_cache": False}
    model = model or TrineForCausalLM(tiny_config(**fields))
    arguments = TrainingArguments(
        **{
            "output_dir": str(folder),
            "max_steps": 5,
            "save_strategy": "no",
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "disable_tqdm": True,
            "report_to": "none",
            "use_cpu": True,
            **options,
        }
    )
    ids = torch.randint(3, 60, (16, 10))
    data = [{"input_ids": row, "labels": row} for row in ids]
    return Trainer(model, arguments, train_dataset=data, callbacks=[RandomFeatureCallback()])


def performers(model) -> list[PerformerAttention]:
    return [module for module in model.modules() if isinstance(module, PerformerAttention)]


@pytest.mark.parametrize(("steps", "draws"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2)])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_features_are_drawn_before_the_step_that_uses_them(accumulation, steps, draws, tmp_path):
    trainer = make_trainer(tmp_path, max_steps=steps, gradient_accumulation_steps=accumulation)
    (layer,) = performers(trainer.model)
    first = layer.projection.clone()
    trainer.train()
    assert layer.draw[1] == draws
    assert torch.equal(layer.projection, first) == (draws == 0)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(stop, tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    make_trainer(tmp_path / "parts", max_steps=stop, save_strategy="steps", save_steps=stop).train()
    resumed = make_trainer(tmp_path / "parts")
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{stop}"))
    expected = whole.model.state_dict()
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert performers(resumed.model)[0].draw[1] == 2


def test_an_interval_of_zero_keeps_the_first(tmp_path):
    fields = {"attention_types": "performer", "performer_redraw_interval": 0, "use_cache": False}
    trainer = make_trainer(tmp_path, TrineForCausalLM(tiny_config(**fields)))
    trainer.train()
    assert all(layer.draw[1] == 0 for layer in performers(trainer.model))


def test_each_stack_of_an_encoder_decoder_has_its_own_interval(tmp_path):
    fields = {**SIZES, "attention_types": "performer"}
    config = TrineSeq2SeqConfig(
        encoder={**fields, "performer_redraw_interval": 1, "is_causal": False},
        decoder={**fields, "performer_redraw_interval": 3},
        decoder_start_token_id=1,
        pad_token_id=0,
    )
    trainer = make_trainer(tmp_path, TrineForConditionalGeneration(config))
    trainer.train()
    counts = {
        stack: {int(layer.draw[1]) for layer in performers(getattr(trainer.model.model, stack))}
        for stack in ("encoder", "decoder")
    }
    assert counts == {"encoder": {4}, "decoder": {1}}
