"""Shared parts of the objectives of distillation: options, batches, outputs of a model, and which tokens are real."""

# Shapes: B rows, L tokens of a row, N real tokens of a batch, S sequences, H width.

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from ....configuration.patterns import check_choice
from ....modeling.heads.causal_lm import TrineForCausalLM
from ....modeling.heads.masked_lm import MaskedTokenHead
from ....modeling.heads.seq2seq import TrineForConditionalGeneration
from ....modeling.losses import IGNORE_INDEX, shift_right
from ....modeling.modeling_trine import TrineModel
from ....modeling.modeling_trine_seq2seq import TrineSeq2SeqModel


NAMES = ("logits", "hidden", "relations", "embeddings", "sequences")
TAUGHT_BEFORE = ("embeddings", "sequences")  # what the teacher gives is in the batch
TOKEN_HEADS = (TrineForCausalLM, MaskedTokenHead, TrineForConditionalGeneration)
DISTANCES = ("cosine", "mse")
PROJECTIONS = ("query", "key", "value")


@dataclass
class DistillationOptions:
    """Options of distillation. The loss is the sum of the named objectives, each times its alpha."""

    objective: list[str] = field(
        default_factory=lambda: ["logits"],
        metadata={
            "help": "What is learned, one or several: 'logits', the teacher's probabilities of tokens; 'hidden', its "
            "states of tokens; 'relations', how its tokens are related, at any width; 'embeddings', its vectors of "
            "texts; 'sequences', the texts that it writes."
        },
    )
    temperature: float = field(
        default=2.0, metadata={"help": "What logits are divided by, so that small probabilities count more."}
    )
    alpha_logits: float = field(default=1.0, metadata={"help": "Weight of the teacher's probabilities."})
    alpha_labels: float = field(
        default=0.0, metadata={"help": "Weight of the cross-entropy with the text's own tokens, beside 'logits'."}
    )
    alpha_hidden: float = field(default=1.0, metadata={"help": "Weight of the states."})
    alpha_relations: float = field(default=1.0, metadata={"help": "Weight of the relations."})
    alpha_embeddings: float = field(default=1.0, metadata={"help": "Weight of the vectors of texts."})
    alpha_sequences: float = field(default=1.0, metadata={"help": "Weight of the texts that the teacher wrote."})
    hidden_distance: str = field(
        default="cosine",
        metadata={"help": "How states are compared: 'cosine', their directions (DistilBERT); 'mse' (TinyBERT)."},
    )
    layer_map: str = field(
        default="last",
        metadata={
            "help": "Which states are compared: 'last'; 'uniform', those of all of the student's layers and of its "
            "embeddings with evenly spread ones; or pairs of the student's and the teacher's, such as '0:0 1:2 3:6', "
            "where 0 are the embeddings."
        },
    )
    relations: list[str] = field(
        default_factory=lambda: ["value"],
        metadata={"help": "Whose relations are compared: some of 'query', 'key', 'value'."},
    )
    relation_heads: int | None = field(
        default=None,
        metadata={
            "help": "Parts of equal width that relations have, which need not be the heads of either model. Default: "
            "the most, up to the teacher's heads, that divide both widths."
        },
    )
    relation_layer: int | None = field(
        default=None,
        metadata={"help": "The teacher's layer whose relations the student's last layer learns. Default: the last."},
    )
    embedding_distance: str = field(
        default="cosine", metadata={"help": "How vectors of texts are compared: 'cosine' or 'mse'."}
    )

    def __post_init__(self):
        self.objective = split_names(self.objective)
        self.relations = split_names(self.relations)
        for name, known in (("objective", NAMES), ("relations", PROJECTIONS)):
            if not getattr(self, name):
                raise ValueError(f"{name}=[] names nothing; choose from {list(known)}.")
            for index, value in enumerate(getattr(self, name)):
                check_choice(f"{name}[{index}]", value, known)
        for name in ("hidden_distance", "embedding_distance"):
            check_choice(name, getattr(self, name), DISTANCES)
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature={self.temperature} must be above 0.")
        for name in ("labels", *NAMES):
            alpha = getattr(self, f"alpha_{name}")
            if not (alpha >= 0 and math.isfinite(alpha)):
                raise ValueError(f"alpha_{name}={alpha} must be a finite number, at least 0.")
        if self.alpha_labels and "logits" not in self.objective:
            raise ValueError(f"alpha_labels={self.alpha_labels} needs 'logits' in objective={self.objective}.")
        if self.relation_heads is not None and self.relation_heads < 1:
            raise ValueError(f"relation_heads={self.relation_heads} must be at least 1.")
        alphas = [getattr(self, f"alpha_{name}") for name in self.objective] + [self.alpha_labels]
        if not any(alphas):
            raise ValueError(f"objective={self.objective} has no alpha above 0: there would be nothing to learn.")


def split_names(names: list[str]) -> list[str]:
    """The names of a list, of which some may be joined by commas or spaces."""
    return [name for part in names for name in part.replace(",", " ").split()]


def is_two_stacked(model: Any) -> bool:
    """Whether a model is an encoder-decoder."""
    return bool(model.config.is_encoder_decoder)


def trunk_of(model: Any) -> Any:
    """The model without its head."""
    return model if isinstance(model, (TrineModel, TrineSeq2SeqModel)) else model.model


def stacks_of(model: Any) -> list[TrineModel]:
    """The stacks of layers of a model: one, or encoder and decoder."""
    trunk = trunk_of(model)
    return [trunk.encoder, trunk.decoder] if is_two_stacked(model) else [trunk]


class Tokens:
    """The real tokens of what one stack reads.

    Attributes:
        mask: Which tokens are real, (B, L), or None for all.
        lengths: Real tokens of each sequence, in the order of `flat`.
    """

    def __init__(self, mask: torch.Tensor | None, lengths: list[int]):
        self.mask, self.lengths = mask, lengths

    @classmethod
    def of(cls, ids: torch.Tensor, mask: torch.Tensor | None = None, positions: torch.Tensor | None = None):
        """Finds the real tokens of padded rows (B, L) by a mask, or of packed ones by positions that start again."""
        if mask is not None:
            return cls(mask.bool(), mask.bool().sum(dim=1).tolist())
        if positions is None:
            return cls(None, [ids.shape[1]] * ids.shape[0])
        starts = (positions.diff(dim=1, prepend=positions[:, :1] - 2) != 1).flatten().nonzero().flatten().tolist()
        return cls(None, [stop - start for start, stop in zip(starts, [*starts[1:], positions.numel()], strict=True)])

    def flat(self, states: torch.Tensor) -> torch.Tensor:
        """The states of real tokens: (N, ...) of (B, L, ...)."""
        return states.flatten(0, 1) if self.mask is None else states[self.mask]

    def split(self, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The states of each sequence: S times (its tokens, ...) of (B, L, ...)."""
        return self.flat(states).split([length for length in self.lengths if length])


@dataclass
class Batch:
    """The inputs of both models, and the targets.

    Attributes:
        inputs: What the student's trunk reads.
        teacher_inputs: What the teacher's reads: the same but for the ids, where vocabularies differ.
        labels: The text's own tokens, (B, L), or None.
        embeddings: The teacher's vectors of the texts, (S, its size), or None.
        tokens: The real tokens of each stack.
    """

    inputs: dict[str, torch.Tensor]
    teacher_inputs: dict[str, torch.Tensor]
    labels: torch.Tensor | None
    embeddings: torch.Tensor | None
    tokens: list[Tokens]

    @classmethod
    def of(cls, given: Mapping[str, torch.Tensor], config: Any) -> "Batch":
        """Sorts the tensors of a collator; an encoder-decoder reads its labels, shifted to the right."""
        inputs = dict(given)
        labels, embeddings, ids = (
            inputs.pop(name, None) for name in ("labels", "teacher_embeddings", "teacher_input_ids")
        )
        source = Tokens.of(inputs["input_ids"], inputs.get("attention_mask"), inputs.get("position_ids"))
        tokens = [source]
        if config.is_encoder_decoder and labels is not None:
            inputs["decoder_input_ids"] = shift_right(labels, config)
            tokens.append(Tokens.of(labels, labels != IGNORE_INDEX))
        return cls(inputs, inputs if ids is None else {**inputs, "input_ids": ids}, labels, embeddings, tokens)


@dataclass
class Pass:
    """The outputs of a trunk for a batch.

    Attributes:
        model: The model that the trunk is of.
        inputs: What it read.
        outputs: The outputs of the trunk.
        recorded: What hooks recorded, by names of their own.
    """

    model: Any
    inputs: dict[str, torch.Tensor]
    outputs: Any
    recorded: dict[str, torch.Tensor] = field(default_factory=dict)

    def hidden_states(self) -> list[tuple[torch.Tensor, ...]]:
        """The states of each stack: of the embeddings and of each layer, the last ones as they leave the stack."""
        if is_two_stacked(self.model):
            return [self.outputs.encoder_hidden_states, self.outputs.decoder_hidden_states]
        return [self.outputs.hidden_states]


class Objective:
    """One thing that a student learns of its teacher.

    Attributes:
        name: As in `NAMES`.
        needs_states: Whether it reads the states of layers.
        needs_teacher: Whether it reads what the teacher gives for a batch.
        projections: Modules that are trained beside the student, and saved in checkpoints only.
    """

    name: ClassVar[str]
    needs_states: ClassVar[bool] = False
    needs_teacher: bool = True

    def __init__(self, student: Any, teacher: Any, options: DistillationOptions):
        self.options = options
        self.projections: dict[str, nn.Module] = {}

    def recorders(self, model: Any, is_teacher: bool) -> dict[str, nn.Module]:
        """The modules of a model whose outputs are recorded, by names."""
        return {}

    def losses(self, student: Pass, teacher: Pass | None, batch: Batch) -> dict[str, torch.Tensor]:
        """Its losses by the names of their alphas, each a mean."""
        raise NotImplementedError


def project(modules: Mapping[str, nn.Module], name: str, states: torch.Tensor) -> torch.Tensor:
    """States through the projection of that name, where there is one."""
    return modules[name](states) if name in modules else states


def make_projection(student_size: int, teacher_size: int) -> dict[str, nn.Module]:
    """The learned map from a student's width to its teacher's, where they differ."""
    if student_size == teacher_size:
        return {}
    linear = nn.Linear(student_size, teacher_size, bias=False)
    nn.init.normal_(linear.weight, std=student_size**-0.5)
    return {"map": linear}


def precise(states: torch.Tensor) -> torch.Tensor:
    """The states in float32 or better."""
    return states.to(torch.promote_types(states.dtype, torch.float32))


Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cosine_distance(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean of 1 - cosine over rows (N, H)."""
    return (1 - nn.functional.cosine_similarity(precise(states), precise(targets), dim=-1)).mean()


def squared_distance(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean squared error over all numbers of (N, H)."""
    return nn.functional.mse_loss(precise(states), precise(targets))


DISTANCE: dict[str, Distance] = {"cosine": cosine_distance, "mse": squared_distance}
