"""The trainer of distillation: a student learns what its teacher gives for the same batches."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...modeling.heads.base import add_router_losses
from ..objectives.distillation.base import (
    TAUGHT_BEFORE,
    Batch,
    DistillationOptions,
    Objective,
    Pass,
    stacks_of,
    trunk_of,
)
from ..objectives.distillation.table import DISTILLATION
from .trainers import TrineTrainer


PROJECTIONS = "distillation"  # the student's part that only training needs


class DistillationTrainer(TrineTrainer):
    """Trains a student to give what its teacher gives, by one objective or several.

    Batches are what a collator makes for the models, padded or packed without padding, with equal losses. They may
    also have `teacher_embeddings`, (texts, size), for the objective `embeddings`, and `teacher_input_ids`, of the same
    shape as `input_ids`, where the teacher has another vocabulary; for `sequences` their labels are what the teacher
    wrote. The teacher reads them in evaluation mode and
    without gradients. The loss is the sum of the objectives, each times its alpha, and in training of the router
    losses of a sparse student; the logs have each by itself, and gradient accumulation averages over micro-batches.

    Projections between different widths are trained with the student as its module `distillation`. Checkpoints hold
    them, so that a run can be resumed; `save_model` saves the student without them.

    Args:
        model: The student.
        args: As of transformers' `Trainer`.
        teacher_model: The teacher, for all objectives but `embeddings` and `sequences`.
        distillation: What is learned. Default: logits.
        embeddings: For the objective `embeddings`, the `size` of the teacher's vectors and the `pooling`.
        kwargs: As of `TrineTrainer`.

    Raises:
        ValueError: A teacher is missing, the models do not fit the objectives, or there are several processes.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        teacher_model: Any = None,
        distillation: DistillationOptions | None = None,
        embeddings: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        self.distillation = distillation or DistillationOptions()
        check_models(model, teacher_model, self.distillation)
        self.objectives: list[Objective] = []
        for name in self.distillation.objective:
            extra = dict(embeddings or {}) if name == "embeddings" else {}
            self.objectives.append(DISTILLATION[name](model, teacher_model, self.distillation, **extra))
        projections = {key: module for each in self.objectives for key, module in each.projections.items()}
        if projections:
            place = next(model.parameters())
            model.add_module(PROJECTIONS, nn.ModuleDict(projections).to(place.device, place.dtype))
        super().__init__(model, args, **kwargs)
        if self.args.world_size > 1 or self.args.n_gpu > 1:
            raise ValueError(
                f"world_size={self.args.world_size} and n_gpu={self.args.n_gpu}: distillation trains on one device; "
                "set CUDA_VISIBLE_DEVICES to one."
            )
        self.model_accepts_loss_kwargs = False  # the loss is a mean, which the trainer divides by the micro-batches
        self.teacher_model = None
        if teacher_model is not None and any(each.needs_teacher for each in self.objectives):
            self.teacher_model = teacher_model.to(self.args.device).eval().requires_grad_(False)
        self._seen: dict[str, list[tuple[torch.Tensor, int]]] = {}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of a batch, and the student's outputs if they are asked for."""
        student = self.accelerator.unwrap_model(model)
        batch = Batch.of(inputs, student.config)
        with self.accelerator.autocast():  # the wrapped forward of the model is not called
            taught = None if self.teacher_model is None else self.teach(batch)
            given = self.read(student, batch.inputs, model.training)
            losses = {
                name: loss for each in self.objectives for name, loss in each.losses(given, taught, batch).items()
            }
            total: Any = sum(getattr(self.distillation, f"alpha_{name}") * loss for name, loss in losses.items())
        for name, loss in losses.items():
            seen = self._seen.setdefault(f"{'' if model.training else 'eval_'}loss_{name}", [])
            seen.append((loss.detach(), len(batch.tokens[0].lengths)))
        if model.training:
            total = total + self.router_loss(given, batch)
        return (total, given.outputs) if return_outputs else total

    @torch.no_grad()
    def teach(self, batch: Batch) -> Pass:
        """Asks the teacher for its outputs for a batch."""
        assert self.teacher_model is not None
        return self.read(self.teacher_model, batch.teacher_inputs, False, is_teacher=True)

    def read(self, model: Any, inputs: dict[str, Any], wants_routers: bool, is_teacher: bool = False) -> Pass:
        """Runs the trunk of a model, and records what the objectives read of it."""
        modules = {
            name: module for each in self.objectives for name, module in each.recorders(model, is_teacher).items()
        }
        with recorded(modules) as found:
            outputs = trunk_of(model)(
                **inputs,
                use_cache=False,
                output_hidden_states=any(each.needs_states for each in self.objectives),
                output_router_logits=wants_routers and is_sparse(model),
            )
        return Pass(model, inputs, outputs, found)

    def router_loss(self, given: Pass, batch: Batch) -> torch.Tensor | float:
        """The router losses of a sparse student, times their coefficients."""
        if not is_sparse(given.model):
            return 0.0
        outputs, inputs = given.outputs, given.inputs
        logits = [getattr(outputs, "router_logits", None)]
        masks = [inputs.get("attention_mask")]
        if given.model.config.is_encoder_decoder:
            logits = [outputs.encoder_router_logits, outputs.decoder_router_logits]
            masks.append(batch.tokens[1].mask)
        zero = logits[0][0].new_zeros(()) if logits[0] else logits[-1][0].new_zeros(())  # pyright: ignore[reportOptionalSubscript]
        routed = [*zip(stacks_of(given.model), logits, masks, strict=True)]
        return add_router_losses(zero, None, routed, None, True)[0] or zero

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss of a batch without gradients; there are no predictions."""
        with torch.no_grad():
            loss: Any = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As transformers', with each objective's own loss, and means over sequences."""
        self._take("eval_")
        return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Adds the loss of each objective, a mean since the last time."""
        if "eval_loss" in logs:
            parts = self._take("eval_")
            logs.update(parts)
            alphas = {name: getattr(self.distillation, name.replace("eval_loss", "alpha")) for name in parts}
            logs["eval_loss"] = sum(alphas[name] * loss for name, loss in parts.items())  # packed rows count as one
        elif "loss" in logs:
            logs.update(self._take(""))
        super().log(logs, *args, **kwargs)

    def _take(self, prefix: str) -> dict[str, float]:
        """The means over sequences of what was seen since it was taken last, in training or evaluation."""
        means = {}
        for name in [name for name in self._seen if name.startswith("eval_") == bool(prefix)]:
            losses, numbers = zip(*self._seen.pop(name), strict=True)
            weights = torch.tensor(numbers, dtype=torch.float64)
            means[name] = float(torch.stack(losses).double().cpu() @ weights / weights.sum())
        return means

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the student; with the projections only in checkpoints, which the trainer makes by itself."""
        projections = None if _internal_call else self.projections
        if projections is not None:
            delattr(self.model, PROJECTIONS)
        try:
            super().save_model(output_dir, _internal_call)
        finally:
            if projections is not None:
                self.model.add_module(PROJECTIONS, projections)  # pyright: ignore[reportOptionalMemberAccess]

    @property
    def projections(self) -> nn.ModuleDict | None:
        """The projections that are trained with the student, if there are any."""
        return getattr(self.model, PROJECTIONS, None)


def is_sparse(model: Any) -> bool:
    """Whether a model has experts."""
    return any("sparse" in stack.config.mlp_layer_types for stack in stacks_of(model))


def check_models(student: Any, teacher: Any, options: DistillationOptions) -> None:
    """Raises a ValueError for models of different roles, widths of vocabularies, or a missing teacher."""
    needing = [name for name in options.objective if name not in TAUGHT_BEFORE]
    if teacher is None:
        if needing:
            raise ValueError(f"objective={needing} needs a teacher_model, and there is none.")
        return
    for field in ("model_type", "is_encoder_decoder"):
        mine, its = (getattr(model.config, field) for model in (student, teacher))
        if needing and mine != its:
            raise ValueError(f"{field}={mine!r} of the student differs from {its!r} of the teacher.")
    for name in needing:
        for index, pair in enumerate(zip(stacks_of(student), stacks_of(teacher), strict=True)):
            mine, its = (stack.config.vocab_size for stack in pair)
            if name != "relations" and mine != its:
                raise ValueError(
                    f"objective={name!r} needs one vocabulary, but stack {index} of the student has vocab_size="
                    f"{mine}, and of the teacher {its}. With other vocabularies choose 'embeddings', or 'relations' "
                    "where both cut texts into the same tokens."
                )


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """A dictionary in which the outputs of these modules are, by the same names, after a forward pass."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str):
        return lambda module, inputs, output: found.update({name: output})

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
