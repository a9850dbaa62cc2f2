"""Tells what a pointer-generator copied from its source: how much of each token, and from where."""

# Shapes: T target tokens, S source tokens.

from typing import Any, NamedTuple

import torch

from .attention import Reading, WeightMap, run


COPIES = "copies"


class CopyShare(NamedTuple):
    """One token of the target: p_gen when it was written, and the share of its probability that copying made."""

    token: str
    p_gen: float
    copied: float


def copy_map(model: Any, reading: Reading) -> tuple[WeightMap, list[CopyShare]]:
    """The copy attention of a pointer-generator, (1, T, S), and what it did for each token that is predicted.

    A row of the map is a token of `reading.predicted` after its p_gen, the share that the vocabulary had.

    Raises:
        ValueError: The model has no pointer.
    """
    pointer = getattr(model, "pointer", None)
    if pointer is None:
        raise ValueError(f"{type(model).__name__} copies nothing: its config needs pointer_size.")
    copies, outputs = run(model, reading.inputs, [pointer, model])
    p_gen = copies.gate[0, :, 0].sigmoid()
    ids = torch.tensor(reading.predicted_ids, device=p_gen.device)
    there = reading.inputs["input_ids"] == ids[:, None]
    by_copying = (1 - p_gen) * (copies.weights[0] * there).sum(dim=-1)
    shares = by_copying / outputs.logits[0].gather(-1, ids[:, None])[:, 0].exp()
    rows = [
        CopyShare(*row) for row in zip(reading.predicted, p_gen.tolist(), shares.clamp(max=1).tolist(), strict=True)
    ]
    labels = [f"{row.p_gen:.2f} {row.token}" for row in rows]
    weights = copies.weights.float().cpu()
    return WeightMap(COPIES, None, "p_gen before each token", labels, reading.source, weights), rows
