"""Relations: a student learns how the values, or queries or keys, of its teacher's tokens are related."""

# Shapes: R relation heads, L tokens of a sequence, W width of a projection, D = W / R.

from typing import Any

import torch
from torch import nn

from .base import Batch, DistillationOptions, Objective, Pass, precise, stacks_of


class RelationsObjective(Objective):
    """The relations of the tokens of a layer: which values, or queries or keys, are alike.

    A projection (L, W) of a sequence is cut into R parts, (R, L, D). Its relations are the softmax of the products of
    all pairs over `sqrt(D)`, (R, L, L). The loss is KL(teacher || student), a mean over parts and tokens, summed over
    the projections, a mean over the stacks. Neither width nor heads of the models need be equal; padding and other
    sequences of a packed row have no part in it.
    Source: values of the last layer, Wang et al. 2020, MiniLM, arXiv 2002.10957, section 3.2; any number of parts,
    queries and keys, Wang et al. 2021, MiniLMv2, arXiv 2012.15828, section 3.1.

    Raises:
        ValueError: The number of parts does not divide a width, a layer has no such projection, or is not there.
    """

    name = "relations"

    def __init__(self, student: Any, teacher: Any, options: DistillationOptions):
        super().__init__(student, teacher, options)
        self.heads: dict[str, int] = {}
        mine, its = self.recorders(student, False), self.recorders(teacher, True)
        for place, module in mine.items():
            most = stacks_of(teacher)[int(place[0])].config.num_attention_heads
            self.heads[place] = count_heads(options.relation_heads, width_of(module), width_of(its[place]), most)

    def recorders(self, model: Any, is_teacher: bool) -> dict[str, nn.Module]:
        """The projections of the student's last layer, and of the chosen one of the teacher, by stack and name."""
        found = {}
        for index, stack in enumerate(stacks_of(model)):
            layer, count = self.options.relation_layer, len(stack.layers)
            if not is_teacher or layer is None:
                layer = count - 1
            if not 0 <= layer < count:
                raise ValueError(f"relation_layer={layer} is no layer of the teacher, which has 0 to {count - 1}.")
            attention: Any = stack.layers[layer].get_submodule("self_attn")
            for name in self.options.relations:
                module = getattr(attention, f"{name[0]}_proj", None)
                if module is None:
                    raise ValueError(
                        f"relations has {name!r}, but layer {layer} of the {'teacher' if is_teacher else 'student'}, "
                        f"of kind {stack.config.attention_types[layer]!r}, has no {name[0]}_proj."
                    )
                found[f"{index} {name}"] = module
        return found

    def losses(self, student: Pass, teacher: Pass | None, batch: Batch) -> dict[str, torch.Tensor]:
        assert teacher is not None
        totals = []
        for index, tokens in enumerate(batch.tokens):
            for name in self.options.relations:
                place = f"{index} {name}"
                sides = [tokens.split(side.recorded[place]) for side in (student, teacher)]
                parts = [relation_loss(mine, its, self.heads[place]) for mine, its in zip(*sides, strict=True)]
                totals.append(torch.stack(parts).sum() / (self.heads[place] * max(sum(tokens.lengths), 1)))
        return {"relations": torch.stack(totals).sum() / len(batch.tokens)}


def relation_loss(student: torch.Tensor, teacher: torch.Tensor, heads: int) -> torch.Tensor:
    """KL(teacher || student) of the relations of one sequence, (L, W) and (L, its W), summed over parts and tokens."""
    with torch.autocast(student.device.type, enabled=False):
        found, expected = (log_relations(precise(each), heads) for each in (student, teacher))
    return nn.functional.kl_div(found, expected, reduction="sum", log_target=True)


def log_relations(states: torch.Tensor, heads: int) -> torch.Tensor:
    """Logarithms of the relations (R, L, L) of a projection (L, W)."""
    parts = states.unflatten(1, (heads, -1)).transpose(0, 1)
    return (parts @ parts.transpose(1, 2) / parts.shape[-1] ** 0.5).log_softmax(dim=-1)


def width_of(module: Any) -> int:
    """The width of what a projection gives."""
    return module.weight.shape[0]


def count_heads(wanted: int | None, student: int, teacher: int, most: int) -> int:
    """The number of relation heads: that which is wanted, or the most up to `most` that divide both widths."""
    if wanted is None:
        return max(number for number in range(1, most + 1) if student % number == teacher % number == 0)
    for role, width in (("student", student), ("teacher", teacher)):
        if width % wanted:
            raise ValueError(f"relation_heads={wanted} does not divide {width}, the width of the {role}.")
    return wanted
