"""Sequences: a student learns the texts that its teacher writes."""

# Shapes: N tokens that are predicted, H width.

from typing import Any

import torch
from torch import nn

from ....modeling.heads.seq2seq import TrineForConditionalGeneration
from ....modeling.losses import IGNORE_INDEX
from .base import Batch, DistillationOptions, Objective, Pass, precise
from .logits import ChunkedSums, chunk_size_of, head_parameters, predicting_states


class SequencesObjective(Objective):
    """The texts that a teacher writes, as if they were the true ones.

    The loss is the cross-entropy of the batch's labels, which are the teacher's best texts by beam search: its
    distribution of whole texts, cut down to the mode. Teacher and student need neither a vocabulary nor a family in
    common. Logits exist for one chunk of tokens at a time.
    Source: Kim and Rush 2016, Sequence-level knowledge distillation, arXiv 1606.07947, section 3.2.

    Raises:
        ValueError: The student is no encoder-decoder, or copies from the source.
    """

    name = "sequences"
    needs_teacher = False

    def __init__(self, student: Any, teacher: Any, options: DistillationOptions):
        super().__init__(student, teacher, options)
        if not isinstance(student, TrineForConditionalGeneration):
            raise ValueError(
                "objective='sequences' needs a student that reads a text and writes another, "
                f"TrineForConditionalGeneration, not a {type(student).__name__}."
            )
        if getattr(student, "pointer", None) is not None:
            raise ValueError("objective='sequences' does not take a student that copies (pointer_size).")

    def losses(self, student: Pass, teacher: Pass | None, batch: Batch) -> dict[str, torch.Tensor]:
        if batch.labels is None:
            raise ValueError("objective='sequences' needs labels in the batch, what the teacher wrote.")
        states, targets = predicting_states(student, batch.labels)
        chosen = targets != IGNORE_INDEX
        states, targets = states[chosen], targets[chosen]
        model = student.model

        def compute(rows: slice, hidden: torch.Tensor) -> list[torch.Tensor]:
            logits = precise(model.project(hidden))
            return [nn.functional.cross_entropy(logits, targets[rows], reduction="sum")]

        (total,) = ChunkedSums.apply(compute, 1, chunk_size_of(model), states, *head_parameters(model))  # pyright: ignore[reportGeneralTypeIssues] a tuple
        return {"sequences": total / max(len(targets), 1)}
