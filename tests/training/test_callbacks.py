"""Expert loads against counts made by hand, and routers that balance."""

import os
import signal
import sys

import pytest
import torch
from support import forks
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from trine import TrineConfig, TrineForCausalLM
from trine.training.run.callbacks import ExpertLoadCallback, InterruptCallback


E, C = 4, 2


class Batches(Dataset):
    """Random blocks; with padding on the right of every row where asked."""

    def __init__(self, rows=8, length=12, padded=0):
        self.ids = torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(0))
        self.mask = torch.ones_like(self.ids)
        if padded:
            self.mask[:, -padded:] = 0
        self.padded = padded

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        item = {"input_ids": self.ids[index], "labels": self.ids[index].masked_fill(self.mask[index] == 0, -100)}
        return item | ({"attention_mask": self.mask[index]} if self.padded else {})


def make_model(**overrides):
    torch.manual_seed(0)
    options = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "num_experts": E,
        "num_experts_per_tok": C,
        "moe_intermediate_size": 8,
        "router_type": "sigmoid",
        "router_aux_loss_coef": 0.0,
        "router_bias_update_rate": 0.01,
        "use_cache": False,
    }
    return TrineForCausalLM(TrineConfig(**{**options, **overrides}))


def train(model, folder, data=None, callback=None, resume=None, **arguments):
    options = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.0,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    }
    callback = callback or ExpertLoadCallback()
    trainer = Trainer(
        model,
        TrainingArguments(**{**options, **arguments}),
        train_dataset=data or Batches(),
        eval_dataset=data or Batches(),
        callbacks=[callback],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def chosen_shares(model, data):
    """Shares (L, E) of the choices of a model on the real tokens of a data set, from its router logits."""
    logits = model.eval()(input_ids=data.ids, attention_mask=data.mask, output_router_logits=True).router_logits
    real = data.mask.flatten().bool()
    shares = []
    for layer_logits in logits:
        choices = layer_logits[real].sigmoid().topk(C, dim=-1).indices.flatten().tolist()
        shares.append([choices.count(expert) / len(choices) for expert in range(E)])
    return shares


@pytest.mark.parametrize(
    ("padded", "arguments"),
    [
        (0, {"per_device_train_batch_size": 8}),
        (5, {"per_device_train_batch_size": 8}),
        (5, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
        (0, {"per_device_train_batch_size": 8, "eval_strategy": "steps", "eval_steps": 1}),
        (3, {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}),
        (3, {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}}),
    ],
)
def test_every_real_token_counts_once(tmp_path, padded, arguments):
    data = Batches(padded=padded)
    model = make_model(router_bias_update_rate=0.0)
    steps = len(data) // (
        arguments.get("per_device_train_batch_size", 4) * arguments.get("gradient_accumulation_steps", 1)
    )
    totals = []

    class Totals(ExpertLoadCallback):
        def on_log(self, *args, **kwargs):
            if "loss" in kwargs["logs"]:
                totals.append(self._logged_load.sum(1).tolist())
            super().on_log(*args, **kwargs)

    trainer = train(model, tmp_path, data, Totals(), max_steps=steps, logging_steps=steps, **arguments)
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    torch.testing.assert_close(torch.tensor(entry["expert_load"]), torch.tensor(chosen_shares(model, data)))
    assert totals == [[int(data.mask.sum()) * C] * 2]
    assert entry["expert_load_worst"] == pytest.approx(max(map(max, chosen_shares(model, data))) * E, abs=1e-3)


def test_evaluation_is_not_counted(tmp_path):
    callback = ExpertLoadCallback()
    trainer = train(make_model(), tmp_path, callback=callback, max_steps=1)
    callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    trainer.evaluate()
    assert callback._step_load.sum() == 0
    trainer.model.train()(input_ids=Batches().ids)
    assert callback._step_load.sum() > 0


def test_the_update_is_that_of_the_paper(tmp_path):
    data = Batches()
    model = make_model()
    shares = torch.tensor(chosen_shares(model, data))
    train(model, tmp_path, data, max_steps=1, per_device_train_batch_size=8)
    expected = 0.01 * torch.sign(1 / E - shares)
    assert expected.abs().min() > 0  # no load is the mean
    biases = torch.stack([layer.mlp.gate.e_score_correction_bias for layer in model.model.layers[1:]])
    torch.testing.assert_close(biases, expected, rtol=1e-5, atol=0)


def test_a_skewed_router_becomes_balanced(tmp_path):
    model = make_model(router_bias_update_rate=0.02)
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.mlp.gate.weight.mul_(10)
            layer.mlp.gate.e_score_correction_bias.copy_(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    data = Batches(rows=64)
    trainer = train(model, tmp_path, data, max_steps=80, per_device_train_batch_size=64)
    worst = [entry["expert_load_worst"] for entry in trainer.state.log_history if "loss" in entry]
    assert worst[0] == E / C  # all tokens choose experts 0 and 1
    assert sum(worst[-5:]) / 5 < 1.25


def test_resume_restores_the_bias(tmp_path):
    straight = train(make_model(), tmp_path / "a", max_steps=6, learning_rate=0.01)
    train(make_model(), tmp_path / "b", max_steps=6, learning_rate=0.01, save_strategy="steps", save_steps=3)
    resumed = train(
        make_model(), tmp_path / "b", max_steps=6, learning_rate=0.01, resume=str(tmp_path / "b" / "checkpoint-3")
    )
    for (name, expected), actual in zip(
        straight.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, actual), name
    assert any("e_score_correction_bias" in name for name in straight.model.state_dict())
    assert [entry.get("expert_load") for entry in straight.state.log_history] == [
        entry.get("expert_load") for entry in resumed.state.log_history
    ]


def test_softmax_routers_are_counted_and_dense_models_left_alone(tmp_path):
    sparse = train(make_model(router_type="softmax"), tmp_path, max_steps=1)
    assert "expert_load" in sparse.state.log_history[0]
    dense = train(make_model(mlp_layer_types="dense"), tmp_path, max_steps=1)
    assert "expert_load" not in dense.state.log_history[0]


def test_nothing_is_counted_after_training(tmp_path):
    callback = ExpertLoadCallback()
    trainer = train(make_model(), tmp_path, callback=callback, max_steps=1)
    trainer.model.train()(input_ids=Batches().ids)
    assert callback._step_load.sum() == 0


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    for done in forks.run_ranks(2, [__file__, str(tmp_path)], tmp_path):
        assert done.returncode == 0, done.stderr
    alone = make_model()
    train(alone, tmp_path, max_steps=2, per_device_train_batch_size=8, learning_rate=0.01)
    for rank in range(2):
        for name, actual in torch.load(tmp_path / f"rank-{rank}.pt").items():
            torch.testing.assert_close(actual, alone.state_dict()[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.fixture
def ctrl_c():
    """Python's own answer to Ctrl-C, which a program in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_and_a_second_one_stops(tmp_path, number, ctrl_c):
    interrupt = InterruptCallback()
    handlers = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]

    class PressCtrlC(ExpertLoadCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == self.at:
                signal.raise_signal(number)

    press = PressCtrlC()
    press.at = 1
    options = {"max_steps": 5, "learning_rate": 0.01}
    trainer = Trainer(
        make_model(),
        TrainingArguments(
            output_dir=str(tmp_path),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            per_device_train_batch_size=4,
            **options,
        ),
        train_dataset=Batches(),
        callbacks=[interrupt, press],
    )
    trainer.train()
    assert interrupt.interrupted and trainer.state.global_step == 2
    assert (tmp_path / "checkpoint-2" / "model.safetensors").is_file()
    assert [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)] == handlers

    class PressTwice(PressCtrlC):
        def on_step_begin(self, args, state, control, **kwargs):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    trainer.pop_callback(press)
    trainer.add_callback(PressTwice())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)] == handlers


if __name__ == "__main__":  # one of the two processes
    process_model = make_model()
    train(process_model, sys.argv[1], max_steps=2, learning_rate=0.01, ddp_backend="gloo")
    torch.save(process_model.state_dict(), f"{sys.argv[1]}/rank-{os.environ['RANK']}.pt")
