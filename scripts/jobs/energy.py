"""Energy of commands: what their work took, and what models take for 1,000 tokens."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from trine.conversion.quantization.quality import load_sides, run
from trine.conversion.quantization.report import Report
from trine.training.measures.energy import EnergyMeter, EnergyUse


LEAST_SECONDS = 2.0  # of a measurement, of the processor: processes count hundredths


def how(use: EnergyUse) -> str:
    """The word that says whether a figure is an estimate."""
    return "estimated" if use.is_estimated else "measured"


def energy_of_work(use: EnergyUse) -> dict[str, Any]:
    """Entries for the report: joules of a command's work, and its CO2."""
    co2 = {} if use.co2_kg is None else {f"CO2 of this command in g ({how(use)})": 1000 * use.co2_kg}
    return {f"J of this command ({how(use)})": use.joules, **co2}


def energy_of_sides(report: Report, texts: Sequence[str], meter: EnergyMeter) -> dict[str, Any]:
    """Joules of the processors for 1,000 tokens that source and target read, one text at a time."""
    source, made, batches = load_sides(report, texts)
    tokens, is_seq2seq = sum(batch["input_ids"].numel() for batch in batches), source.config.is_encoder_decoder

    def step_of(model: Callable[..., Any]) -> Callable[[], int]:
        def step() -> int:
            for batch in batches:
                run(model, batch, is_seq2seq)
            return tokens

        return step

    return joules_per_1000_tokens({"before": step_of(source), **{name: step_of(made[name]) for name in made}}, meter)


@torch.inference_mode()
def joules_per_1000_tokens(steps: Mapping[str, Callable[[], int]], meter: EnergyMeter) -> dict[str, float]:
    """Joules of the processors for 1,000 tokens of each step, which returns how many it read.

    Each runs once to warm up, and then for at least `LEAST_SECONDS` of the processor.
    """
    found = {}
    for name, step in steps.items():
        step()
        tokens, started = 0, time.process_time()
        meter.start()
        while time.process_time() - started < LEAST_SECONDS:
            tokens += step()
        use = meter.stop()
        found[f"J per 1,000 tokens, {name} ({how(use)})"] = (
            1000 * (use.processor_joules + use.gpu_joules) / max(1, tokens)
        )
    return found
