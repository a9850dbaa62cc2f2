"""Checks exported programs against their models, at other sizes than they were traced with."""

from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from ..equivalence import TOLERANCE, compare_outputs, random_inputs


SIZES = ((1, 1), (2, 2), (3, 9), (4, 33))  # numbers of texts and their lengths
STEPS = (3, 1)  # tokens that follow a prompt, at once


@torch.no_grad()
def check_program(folder: Path, model: PreTrainedModel) -> float:
    """Runs an exported program and the model on random tokens.

    Returns:
        The largest difference of their outputs.

    Raises:
        ValueError: It is above `TOLERANCE`, or the program does not run.
    """
    program, largest = load_program(folder), 0.0
    for batch, length in sizes(model.config):
        inputs = random_inputs(model.config, type(model).__name__, length, batch)
        shape = f"(batch, length) = {tuple(inputs['input_ids'].shape)}"
        try:
            actual = program(**inputs)
        except Exception as error:  # each runtime has its own
            raise ValueError(f"The program does not run for {shape}: {error}") from error
        difference, size = compare_outputs(model(**inputs), actual, inputs)
        check_difference(difference, size, shape)
        largest = max(largest, difference)
    return largest


@torch.no_grad()
def check_generation(folder: Path, model: Any) -> float:
    """Runs `prefill` and `decode` on prompts, padded on the left, and the model on whole texts.

    Returns:
        The largest difference of their logits.

    Raises:
        ValueError: It is above `TOLERANCE`.
    """
    runners, largest = load_program(folder).runners, 0.0
    for batch, length in sizes(model.config, sum(STEPS)):
        inputs = random_inputs(model.config, type(model).__name__, length + sum(STEPS), batch)
        ids, mask = inputs["input_ids"].flip(1), inputs["attention_mask"].flip(1)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        expected = model(ids, attention_mask=mask, use_cache=False).logits
        states, start = DynamicCache(config=model.config), 0
        for name, end in (("prefill", length), *(("decode", length + sum(STEPS[: n + 1])) for n in range(len(STEPS)))):
            part = {"input_ids": ids[:, start:end], "attention_mask": mask[:, :end], "past_key_values": states}
            shape = f"(batch, length) = {tuple(part['input_ids'].shape)} after {start} tokens"
            try:
                outputs = runners[name](**part, position_ids=positions[:, start:end])
            except Exception as error:  # each runtime has its own
                raise ValueError(f"The program '{name}' does not run for {shape}: {error}") from error
            real = mask[:, start:end] == 1
            logits = expected[:, start:end][real]
            difference = (outputs.logits[real] - logits).abs().max().item() if len(logits) else 0.0
            check_difference(difference, expected.abs().max().item(), shape)
            largest, states, start = max(largest, difference), outputs.past_key_values, end
    return largest


def sizes(config: Any, more: int = 0) -> list[tuple[int, int]]:
    """`SIZES`, shortened where a table of positions ends before, with `more` tokens after them."""
    limit = getattr(config, "max_position_embeddings", None)
    return [(batch, min(length, (limit or length + more) - more)) for batch, length in SIZES]


def load_program(folder: Path) -> Any:
    """Loads an exported program on the CPU."""
    from transformers.exporters.base import ExportedModel

    return ExportedModel.from_pretrained(folder, device="cpu")


def check_difference(difference: float, size: float, shape: str) -> None:
    """Raises a `ValueError` if outputs differ by more than `TOLERANCE`."""
    if not difference <= TOLERANCE * max(1.0, size):
        raise ValueError(
            f"For {shape} the outputs of program and model differ by up to {difference:.3g}, where the largest is "
            f"{size:.3g}; {TOLERANCE} of that is allowed."
        )
