"""Measures a run: tokens per second, the share of the machine's speed, and energy."""

import time
from typing import Any, cast

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..measures.energy import EnergyMeter, EnergyUse
from .flops import flops_per_token


class ThroughputCallback(TrainerCallback):
    """Log `tokens_per_second` with each training loss and, for a single stack, `mfu`.

    `mfu` is model FLOPs utilisation: `flops_per_token` times the tokens, over what as many devices could compute in
    that time by matrix products in the type of training, whose rate is measured when training begins. It counts the
    non-padding tokens of all processes. Needs `include_num_input_tokens_seen="non_padding"`.

    Args:
        length: Tokens of a sequence, if `mfu` is wanted; the model must be a `TrineConfig`'s.

    Raises:
        ValueError: When training begins, if the trainer does not count tokens.
    """

    def __init__(self, length: int | None = None):
        self.length = length
        self.rate = 0.0  # FLOP/s of all devices
        self.flops = 0.0  # of one token
        self._time, self._tokens = 0.0, 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Measures the machine's speed if `mfu` is wanted, and starts the clock."""
        if args.include_num_input_tokens_seen != "non_padding":
            raise ValueError(
                f"include_num_input_tokens_seen={args.include_num_input_tokens_seen!r} must be 'non_padding' to count "
                "tokens."
            )
        if self.length is not None:
            self.flops = flops_per_token(kwargs["model"], self.length)
            self.rate = args.world_size * matmul_rate(args.device, training_dtype(args, kwargs["model"]))
        self._time, self._tokens = time.perf_counter(), state.num_input_tokens_seen

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Leaves the time of evaluation out."""
        self._leave_out(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Leaves the time of saving out."""
        self._leave_out(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Adds the speed since the last log to the training loss."""
        logs: dict[str, Any] = kwargs["logs"]
        if "loss" not in logs:
            return
        now = time.perf_counter()
        speed = (state.num_input_tokens_seen - self._tokens) / (now - self._time)
        self._time, self._tokens = now, state.num_input_tokens_seen
        logs["tokens_per_second"] = round(speed, 1)
        if self.length is not None:
            logs["mfu"] = round(speed * self.flops / self.rate, 4)
        # the trainer has copied the logs into its history before it calls back
        cast(dict[str, Any], state.log_history[-1]).update(
            {name: logs[name] for name in ("tokens_per_second", "mfu") if name in logs}
        )

    def _leave_out(self, state: TrainerState) -> None:
        """Begins anew after something that is no training."""
        self._time, self._tokens = time.perf_counter(), state.num_input_tokens_seen


def training_dtype(args: TrainingArguments, model: nn.Module) -> torch.dtype:
    """The dtype of the matrix products of training."""
    if args.bf16:
        return torch.bfloat16
    return torch.float16 if args.fp16 else next(model.parameters()).dtype


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int | None = None, seconds: float = 0.3) -> float:
    """Floating-point operations per second of square matrix products on this device: the best of several runs."""
    size = size or (1024 if device.type == "cpu" else 8192)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        torch.mm(left, right)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class EnergyCallback(TrainerCallback):
    """Measure the energy of training, offline; see `EnergyMeter`.

    `use` is set when training ends. Nothing is sent anywhere, and no file is written.

    Args:
        country: Three letters (ISO 3166), whose mix of electricity decides the CO2.

    Raises:
        ImportError: codecarbon is not installed.
        ValueError: It does not know the country.
    """

    def __init__(self, country: str):
        self.meter = EnergyMeter(country)
        self.use: EnergyUse | None = None
        self._tokens = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Starts to measure."""
        self._tokens = state.num_input_tokens_seen
        self.meter.start()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Sets `use`."""
        self.use = self.meter.stop()
        self._tokens = state.num_input_tokens_seen - self._tokens

    def figures(self) -> dict[str, Any]:
        """Entries for `metrics.json`: kilowatt hours, CO2, joules per 1,000 tokens where they were counted, and
        whether the processor's part is an estimate.
        """
        if self.use is None:
            return {}
        figures: dict[str, Any] = {"energy_kwh": self.use.kwh, "co2_kg": self.use.co2_kg}
        if self._tokens:
            figures["joules_per_1000_tokens"] = 1000 * self.use.per(self._tokens)
        return {**figures, "energy_is_estimated": self.use.is_estimated}
