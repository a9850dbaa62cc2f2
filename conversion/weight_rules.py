"""Rules that map the tensors of a source to Trine's and back; each rule serves both directions."""

# Shapes: E experts, I width of an expert, H hidden size, P positions.

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch


class Move:
    """Tensors are the same on both sides; the base of all other operations.

    Both methods take and return lists, aligned with the names of a rule. They also run on the meta device, which is
    how shapes are checked before anything is read. `like` are tensors of the results' shapes, without content.
    """

    def to_trine(self, tensors: list[torch.Tensor], like: list[torch.Tensor]) -> list[torch.Tensor]:
        """Makes Trine's tensors, of the shapes of `like`, from the source's."""
        return tensors

    def to_source(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Makes the source's tensors from Trine's."""
        return tensors


class Transpose(Move):
    """GPT-2's `Conv1D` stores (in, out), a linear layer (out, in). Vectors stay."""

    def to_trine(self, tensors: list[torch.Tensor], like: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.to_source(tensors)

    def to_source(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [tensor.T if tensor.ndim == 2 else tensor for tensor in tensors]


class Reshape(Move):
    """A tensor of the source has the same numbers in another shape, in the same order.

    Args:
        shape: That of the source; -1 is what is left, and 0 the size that ours has there.
    """

    def __init__(self, *shape: int):
        self.shape = shape

    def to_trine(self, tensors: list[torch.Tensor], like: list[torch.Tensor]) -> list[torch.Tensor]:
        return [tensor.reshape(other.shape) for tensor, other in zip(tensors, like, strict=True)]

    def to_source(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        (tensor,) = tensors
        return [tensor.reshape([size or tensor.shape[place] for place, size in enumerate(self.shape)])]


class SplitRows(Move):
    """One fused projection of the source is several of ours, of equal sizes, along the output features.

    Args:
        transposed: Whether the fused one is stored (in, out).
    """

    def __init__(self, transposed: bool = False):
        self.turn = Transpose() if transposed else Move()

    def to_trine(self, tensors: list[torch.Tensor], like: list[torch.Tensor]) -> list[torch.Tensor]:
        (fused,) = self.turn.to_trine(tensors, like)
        return list(fused.tensor_split(len(like)))

    def to_source(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.turn.to_source([torch.cat(tensors)])


class StackExperts(Move):
    """The source's weights of single experts are one stacked weight of ours.

    The source's are listed by projection, then by expert.

    Args:
        projections: How many projections (I, H) of an expert are joined to (E, projections * I, H).
    """

    def __init__(self, projections: int):
        self.projections = projections

    def to_trine(self, tensors: list[torch.Tensor], like: list[torch.Tensor]) -> list[torch.Tensor]:
        experts = len(tensors) // self.projections
        return [torch.stack([torch.cat(tensors[expert::experts]) for expert in range(experts)])]

    def to_source(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        parts = tensors[0].tensor_split(self.projections, dim=1)
        return [expert for part in parts for expert in part.unbind()]


class RollRows(Move):
    """A table of positions (P, H) whose first rows serve no token; ours begins with the first used row.

    The unused rows go to the end, so that nothing is lost on the way back.
    """

    def __init__(self, unused: int):
        self.unused = unused

    def to_trine(self, tensors: list[torch.Tensor], like: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self.roll(tensors[0], self.unused)]

    def to_source(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self.roll(tensors[0], len(tensors[0]) - self.unused)]

    @staticmethod
    def roll(table: torch.Tensor, rows: int) -> torch.Tensor:
        """Moves the first rows of a table (P, H) to the end."""
        return torch.cat([table[rows:], table[:rows]])


class NoBias(Move):
    """The source has no bias where we have one: it is zero, and must be so on the way back."""

    def to_trine(self, tensors: list[torch.Tensor], like: list[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.zeros(tensor.shape, dtype=tensor.dtype) for tensor in like]

    def to_source(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        require_zeros(tensors)
        return []


class Zeros(Move):
    """The source has a tensor of this shape where we have nothing: it must be zero."""

    def __init__(self, *shape: int, dtype: torch.dtype):
        self.shape, self.dtype = shape, dtype

    def to_trine(self, tensors: list[torch.Tensor], like: list[torch.Tensor]) -> list[torch.Tensor]:
        require_zeros(tensors)
        return []

    def to_source(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.zeros(self.shape, dtype=self.dtype)]


def require_zeros(tensors: list[torch.Tensor]) -> None:
    """Raises a `ValueError` unless all are zero, as far as they have content."""
    if any(tensor.device.type != "meta" and tensor.any() for tensor in tensors):
        raise ValueError("has no counterpart in the target, and is not zero.")


MOVE = Move()
# `{layer}` and `{kind}` stand for the same text on both sides, `{name}` for any; `{expert}` of a source's name runs
# over all experts.
WILDCARDS = {"layer": r"\d+", "expert": r"\d+", "kind": "weight|bias", "name": ".+"}


@dataclass(frozen=True)
class Rule:
    """Names of Trine's tensors, the source's names of the same numbers, and the operation between them."""

    trine: str | Sequence[str]
    source: str | Sequence[str]
    operation: Move = MOVE

    def below(self, trine_prefix: str, source_prefix: str) -> "Rule":
        """The rule with a prefix on either side, for a larger module."""
        return Rule(
            [trine_prefix + name for name in as_list(self.trine)],
            [source_prefix + name for name in as_list(self.source)],
            self.operation,
        )

    def source_patterns(self) -> list[str]:
        """Regular expressions of the source's names."""
        return [to_regex(name) for name in as_list(self.source)]

    def match(self, name: str, num_experts: int) -> "Step | None":
        """The step that makes Trine's tensor `name`, or None if the rule is about others."""
        for pattern in as_list(self.trine):
            found = re.fullmatch(to_regex(pattern), name)
            if found:
                texts = found.groupdict()
                return Step(
                    tuple(text for one in as_list(self.trine) for text in expand(one, texts, 1)),
                    tuple(text for one in as_list(self.source) for text in expand(one, texts, num_experts)),
                    self.operation,
                )
        return None


@dataclass(frozen=True)
class Step:
    """A rule applied to tensors with given names."""

    trine: tuple[str, ...]
    source: tuple[str, ...]
    operation: Move

    def to_trine(self, tensors: list[torch.Tensor], like: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Makes Trine's tensors, by name, from the source's."""
        return dict(zip(self.trine, self.operation.to_trine(tensors, like), strict=True))

    def to_source(self, tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Makes the source's tensors, by name, from Trine's."""
        return dict(zip(self.source, self.operation.to_source(tensors), strict=True))


def as_list(names: str | Sequence[str]) -> list[str]:
    """Names as a list; one name is a list of one."""
    return [names] if isinstance(names, str) else list(names)


def to_regex(pattern: str) -> str:
    """A pattern with wildcards as a regular expression, each wildcard a named group."""
    parts = re.split(r"\{(\w+)\}", pattern)
    return "".join(
        f"(?P<{part}>{WILDCARDS[part]})" if index % 2 else re.escape(part) for index, part in enumerate(parts)
    )


def expand(pattern: str, texts: dict[str, str], num_experts: int) -> list[str]:
    """The names that a pattern stands for: one, or one for each expert."""
    if "{expert}" not in pattern:
        return [pattern.format(**texts)]
    return [pattern.format(**texts, expert=expert) for expert in range(num_experts)]


def make_steps(names: Iterable[str], rules: Sequence[Rule], num_experts: int) -> list[Step]:
    """The steps that make all of Trine's tensors `names`, and those for tensors that only the source has.

    Raises:
        ValueError: No rule matches one of the names.
    """
    steps: list[Step] = []
    made: set[str] = set()
    for name in names:
        if name in made:
            continue
        step = next((step for rule in rules if (step := rule.match(name, num_experts))), None)
        if step is None:
            raise ValueError(f"Trine's tensor '{name}' has no counterpart in this family.")
        steps.append(step)
        made.update(step.trine)
    alone = [rule for rule in rules if not rule.trine]
    return steps + [Step((), tuple(as_list(rule.source)), rule.operation) for rule in alone]
