"""Vectors of texts: a student learns the vectors that its teacher, any sentence encoder, gives to texts."""

# Shapes: S texts, H width, D size of the teacher's vectors.

from collections.abc import Callable
from typing import Any

import torch

from ....configuration.patterns import check_choice
from .base import DISTANCE, Batch, DistillationOptions, Objective, Pass, Tokens, make_projection, project


def mean_of(states: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """The mean state (S, H) of each text."""
    return torch.stack([rows.mean(dim=0) for rows in tokens.split(states)])


def first_of(states: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """The first state (S, H) of each text."""
    return torch.stack([rows[0] for rows in tokens.split(states)])


def last_of(states: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """The last state (S, H) of each text."""
    return torch.stack([rows[-1] for rows in tokens.split(states)])


# By the names that sentence-transformers gives them.
POOLINGS: dict[str, Callable[[torch.Tensor, Tokens], torch.Tensor]] = {
    "mean": mean_of,
    "cls": first_of,
    "lasttoken": last_of,
}


class EmbeddingsObjective(Objective):
    """The vectors of texts, by cosine or squared error.

    The student's vector is pooled of its last states, and led to the size of the teacher's by a learned linear map
    where they differ, which is part of the student that is saved. The batch brings the teacher's vectors, which can so
    be computed once, by a model of any kind and vocabulary.
    Source: Reimers and Gurevych 2020, Making monolingual sentence embeddings multilingual using knowledge
    distillation, arXiv 2004.09813, section 2.

    Args:
        size: The size of the teacher's vectors. Default: the student's width.
        pooling: One of `POOLINGS`.

    Raises:
        ValueError: The student has two stacks, or there is no such pooling.
    """

    name = "embeddings"
    needs_teacher = False

    def __init__(
        self,
        student: Any,
        teacher: Any,
        options: DistillationOptions,
        size: int | None = None,
        pooling: str = "mean",
    ):
        super().__init__(student, teacher, options)
        if student.config.is_encoder_decoder:
            raise ValueError(
                f"objective='embeddings' needs a student with one stack of layers, not a {type(student).__name__}."
            )
        check_choice("pooling", pooling, POOLINGS)
        self.pool = POOLINGS[pooling]
        for name, module in make_projection(student.config.hidden_size, size or student.config.hidden_size).items():
            self.projections[f"embeddings_{name}"] = module

    def losses(self, student: Pass, teacher: Pass | None, batch: Batch) -> dict[str, torch.Tensor]:
        if batch.embeddings is None:
            raise ValueError("objective='embeddings' needs teacher_embeddings in the batch, (texts, size).")
        vectors = self.pool(student.outputs.last_hidden_state, batch.tokens[0])
        vectors = project(self.projections, "embeddings_map", vectors)
        return {"embeddings": DISTANCE[self.options.embedding_distance](vectors, batch.embeddings)}
