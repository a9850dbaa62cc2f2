"""What a run says of itself: tokens and time by a clock that the test sets, and energy."""

import pytest
import torch
from support.tiny import tiny_config
from transformers import Trainer, TrainingArguments

from trine import TrineForCausalLM
from trine.training.run import monitoring
from trine.training.run.flops import flops_per_token
from trine.training.run.monitoring import EnergyCallback, ThroughputCallback, matmul_rate, training_dtype


def make_trainer(tmp_path, callback, **options):
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        logging_steps=2,
        per_device_train_batch_size=2,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    ids = torch.randint(3, 60, (8, 10))
    rows = [{"input_ids": row, "labels": row, "attention_mask": (torch.arange(10) < 7).long()} for row in ids]
    return Trainer(TrineForCausalLM(tiny_config(use_cache=False)), arguments, train_dataset=rows, callbacks=[callback])


def test_tokens_and_flops_a_second(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(monitoring.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(monitoring, "matmul_rate", lambda device, dtype: 1e6)
    trainer = make_trainer(
        tmp_path, ThroughputCallback(10), include_num_input_tokens_seen="non_padding", gradient_accumulation_steps=2
    )
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    # 2 steps of 2 micro-batches of 2 rows of 7 tokens, in 5 seconds
    assert [entry["tokens_per_second"] for entry in entries] == [11.2, 11.2]
    expected = round(11.2 * flops_per_token(trainer.model, 10) / 1e6, 4)
    assert [entry["mfu"] for entry in entries] == [expected, expected] and expected > 0


def test_without_a_length_there_is_no_utilisation(tmp_path):
    trainer = make_trainer(tmp_path, ThroughputCallback(), include_num_input_tokens_seen="non_padding")
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["tokens_per_second"] > 0 and "mfu" not in entry for entry in entries)


def test_tokens_must_be_counted(tmp_path):
    with pytest.raises(ValueError, match="include_num_input_tokens_seen='no' must be 'non_padding'"):
        make_trainer(tmp_path, ThroughputCallback()).train()


def test_the_rate_of_products(monkeypatch):
    clock = iter([0.0, 0.1, 0.2, 0.5, 9.0])  # end; one product from 0.2 to 0.5
    monkeypatch.setattr(monitoring.time, "perf_counter", lambda: next(clock))
    assert matmul_rate(torch.device("cpu"), torch.float32, size=10) == pytest.approx(2 * 10**3 / 0.3)


def test_the_type_of_training(tmp_path):
    model = torch.nn.Linear(2, 2).double()
    assert training_dtype(TrainingArguments(output_dir=str(tmp_path), use_cpu=True), model) == torch.float64
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16=True)
    assert training_dtype(arguments, model) == torch.bfloat16


@pytest.mark.filterwarnings("ignore")
def test_energy(tmp_path):
    pytest.importorskip("codecarbon")
    callback = EnergyCallback("DEU")
    make_trainer(tmp_path / "run", callback, include_num_input_tokens_seen="non_padding").train()
    figures = callback.figures()
    assert figures["energy_kwh"] > 0 and figures["co2_kg"] > 0
    tokens = figures["energy_kwh"] * 3.6e6 / figures["joules_per_1000_tokens"] * 1000
    assert tokens == pytest.approx(4 * 2 * 7)  # 4 steps of 2 rows of 7 tokens
    assert not list(tmp_path.rglob("emissions*"))
