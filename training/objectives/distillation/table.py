"""The objectives of distillation by name."""

from .base import Objective
from .embeddings import EmbeddingsObjective
from .hidden import HiddenObjective
from .logits import LogitsObjective
from .relations import RelationsObjective
from .sequences import SequencesObjective


DISTILLATION: dict[str, type[Objective]] = {
    each.name: each
    for each in (LogitsObjective, HiddenObjective, RelationsObjective, EmbeddingsObjective, SequencesObjective)
}
