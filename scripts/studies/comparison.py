"""Trains models that differ only in their attention, on the same batches and with equal parameters."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup, set_seed

from trine import TrineConfig


# The attention kinds of each model, repeated over its layers.
MODELS = {"dot product": "full", "2-simplicial": "simplicial", "hybrid": "full, simplicial"}

Batch = dict[str, torch.Tensor]


class Comparison:
    """Models that differ in their attention, with equal parameters, batches, steps and learning rate.

    Attributes:
        head: The model's class.
        sizes: Fields of its config. `intermediate_size` is that of the 2-simplicial model.
        full_steps: Steps of training at scale 1.
        batch_size: Sequences in a step.
        learning_rate: Peak of the learning rate.
    """

    models = tuple(MODELS)
    head: ClassVar[type[PreTrainedModel]]
    sizes: dict[str, Any]
    full_steps: ClassVar[int]
    batch_size: ClassVar[int]
    learning_rate: ClassVar[float]

    def __init__(self, data: Path, output: Path, scale: float):
        self.steps = max(1, int(self.full_steps * scale))
        self.prepare(data)

    def prepare(self, data: Path) -> None:
        """Reads or makes the data that all runs share."""

    def batches(self, seed: int) -> Iterator[Batch]:
        """The batches of a run: the same for each model."""
        raise NotImplementedError

    def evaluate(self, model: PreTrainedModel) -> dict[str, float]:
        """The metrics, on data that no run is trained on."""
        raise NotImplementedError

    def config(self, name: str, width: int) -> TrineConfig:
        """The config of a model, with feed-forwards of this width."""
        return TrineConfig(**{**self.sizes, "attention_types": MODELS[name], "intermediate_size": width})

    def build(self, name: str) -> PreTrainedModel:
        """Builds a model, with feed-forwards so wide that it has as many parameters as the 2-simplicial model.

        2-simplicial attention has two more projections, which the others make up for.
        """
        width = self.sizes["intermediate_size"]

        def count(name: str, width: int) -> int:
            with torch.device("meta"):
                return self.head(self.config(name, width)).num_parameters()

        missing = count("2-simplicial", width) - count(name, width)
        of_four = count(name, width + 4) - count(name, width)  # multiples of four, for the matrix product's sake
        return self.head(self.config(name, width + 4 * round(missing / of_four)))

    def steps_of(self, name: str) -> int:
        """Steps of training of a model."""
        return self.steps

    def run(self, name: str, seed: int) -> dict:
        """Trains and evaluates a model with one seed."""
        steps = self.steps_of(name)
        set_seed(seed)
        model = self.build(name)
        losses = train(model, self.batches(seed), steps=steps, learning_rate=self.learning_rate)
        with torch.no_grad():
            metrics = self.evaluate(model.eval()) | {"mean training loss": statistics.mean(losses)}
        return {"parameters": model.num_parameters(), "steps": steps, "metrics": metrics}


def train(
    model: PreTrainedModel, batches: Iterator[Batch], *, steps: int, learning_rate: float, has_warmup: bool = True
) -> list[float]:
    """Trains in place with Adam, warm-up over a tenth and cosine decay, gradients clipped at 1; returns all losses.

    Where no batch comes twice, their mean tells how fast a model learns: each loss is of data it had not yet seen.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 10) if has_warmup else 0, steps)
    losses = []
    for step in range(1, steps + 1):
        loss = model.train()(**next(batches)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            print(f"  step {step} of {steps}: training loss {statistics.mean(losses[-100:]):.4f}", flush=True)
    return losses
