"""Hidden states: a student learns the states that its teacher has for each token."""

import re
from typing import Any

import torch

from .base import (
    DISTANCE,
    Batch,
    DistillationOptions,
    Objective,
    Pass,
    make_projection,
    project,
    stacks_of,
)


class HiddenObjective(Objective):
    """The states of tokens, of the last layers or of pairs of layers.

    The loss is the mean, over the pairs of layers and over the stacks, of the distance of both models' states of the
    real tokens. Where widths differ, a learned linear map, one for each stack, leads from the student's to the
    teacher's. Neither depends on padding.
    Source: by cosine, of the last layer, Sanh et al. 2019, DistilBERT, arXiv 1910.01108, section 2; by squared error,
    with layer maps and projections, Jiao et al. 2020, TinyBERT, arXiv 1909.10351, equations 8 and 9.

    Raises:
        ValueError: The layer map cannot be read, or names a layer that is not there.
    """

    name = "hidden"
    needs_states = True

    def __init__(self, student: Any, teacher: Any, options: DistillationOptions):
        super().__init__(student, teacher, options)
        self.pairs = []
        for index, (mine, its) in enumerate(zip(stacks_of(student), stacks_of(teacher), strict=True)):
            self.pairs.append(map_layers(options.layer_map, len(mine.layers), len(its.layers)))
            for name, module in make_projection(mine.config.hidden_size, its.config.hidden_size).items():
                self.projections[f"hidden_{name}_{index}"] = module

    def losses(self, student: Pass, teacher: Pass | None, batch: Batch) -> dict[str, torch.Tensor]:
        distance, found = DISTANCE[self.options.hidden_distance], []
        assert teacher is not None
        stacks = zip(self.pairs, student.hidden_states(), teacher.hidden_states(), batch.tokens, strict=True)
        for index, (pairs, mine, its, tokens) in enumerate(stacks):
            for own, taught in pairs:
                states = project(self.projections, f"hidden_map_{index}", tokens.flat(mine[own]))
                found.append(distance(states, tokens.flat(its[taught])))
        return {"hidden": torch.stack(found).mean()}


def map_layers(layer_map: str, student: int, teacher: int) -> list[tuple[int, int]]:
    """Pairs of the student's and the teacher's states that are compared; 0 are those of the embeddings.

    Args:
        layer_map: `last`; `uniform`, where the student's m-th are those after `m * teacher / student` layers, rounded;
            or pairs such as `0:0 1:2 3:6`.
        student: The number of the student's layers.
        teacher: That of the teacher's.

    Raises:
        ValueError: It is none of these, or there is no such layer.
    """
    if layer_map == "last":
        return [(student, teacher)]
    if layer_map == "uniform":
        return [(layer, round(layer * teacher / student)) for layer in range(student + 1)]
    pairs = []
    for word in layer_map.replace(",", " ").split():
        match = re.fullmatch(r"(\d+):(\d+)", word)
        if match is None:
            raise ValueError(f"layer_map={layer_map!r} is none of 'last', 'uniform' and pairs such as '0:0 1:2 3:6'.")
        pairs.append((int(match[1]), int(match[2])))
    for own, taught in pairs:
        if own > student or taught > teacher:
            raise ValueError(
                f"layer_map={layer_map!r} has {own}:{taught}, but the student has layers up to {student}, and the "
                f"teacher up to {teacher}."
            )
    if not pairs:
        raise ValueError("layer_map='' names no layers.")
    return pairs
