"""Soft targets: a student learns the probabilities that its teacher gives to tokens."""

# Shapes: N tokens that are predicted, H width, V vocabulary.

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ....modeling.heads.causal_lm import TrineForCausalLM
from ....modeling.heads.masked_lm import PREDICTED_FROM, MaskedTokenHead
from ....modeling.losses import IGNORE_INDEX, LARGEST_BUFFER, SHORTEST_CHUNK, causal_targets
from .base import TOKEN_HEADS, Batch, DistillationOptions, Objective, Pass, precise


CHUNK = 1024  # tokens whose logits exist at a time, where the config does not tell


class LogitsObjective(Objective):
    """The probabilities of tokens, softened by a temperature, and the text's own tokens beside them.

    `logits` is `T ** 2 * KL(teacher || student)` of the softmax of logits over T, a mean over the tokens that are
    predicted; the square keeps gradients as large at any temperature. `labels` is the ordinary cross-entropy.
    Logits of both models exist for one chunk of tokens at a time.
    Source: Hinton et al. 2015, Distilling the knowledge in a neural network, arXiv 1503.02531, section 2; with masked
    tokens Sanh et al. 2019, DistilBERT, arXiv 1910.01108.

    Raises:
        ValueError: A model does not predict tokens, copies them from the source, or the vocabularies differ.
    """

    name = "logits"

    def __init__(self, student: Any, teacher: Any, options: DistillationOptions):
        super().__init__(student, teacher, options)
        for role, model in (("teacher", teacher), ("student", student)):
            if not isinstance(model, TOKEN_HEADS):
                raise ValueError(
                    f"objective='logits' needs a {role} with a head that predicts tokens, such as TrineForCausalLM, "
                    f"TrineForMaskedLM or TrineForConditionalGeneration, not a {type(model).__name__}: choose "
                    "'hidden', 'relations' or 'embeddings'."
                )
            if getattr(model, "pointer", None) is not None:
                raise ValueError(f"objective='logits' does not take a {role} that copies (pointer_size).")
        self.needs_teacher = options.alpha_logits > 0

    def losses(self, student: Pass, teacher: Pass | None, batch: Batch) -> dict[str, torch.Tensor]:
        labels = batch.labels
        if labels is None:
            raise ValueError("objective='logits' needs labels in the batch, which tell what is predicted where.")
        states, targets = predicting_states(student, labels)
        chosen = targets != IGNORE_INDEX
        states, targets = states[chosen], targets[chosen]
        taught = None if teacher is None else predicting_states(teacher, labels)[0][chosen]
        options = self.options
        soft = None if taught is None else soft_targets(teacher.model, options.temperature)  # pyright: ignore[reportOptionalMemberAccess]
        found = chunked_sums(student.model, states, targets, taught, soft, options)
        return {name: loss / max(len(targets), 1) for name, loss in found.items()}


def predicting_states(given: Pass, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The states (B, L, H) that predict tokens, and which, (B, L) with `IGNORE_INDEX` for none."""
    model, states = given.model, given.outputs.last_hidden_state
    if isinstance(model, TrineForCausalLM):
        return states, causal_targets(labels)
    if isinstance(model, MaskedTokenHead):
        return PREDICTED_FROM[model.config.masked_lm_head](states, padded_inputs(given.inputs)), labels
    return states * model.config.logit_scale, labels


def padded_inputs(inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The inputs with the names that tell where texts begin."""
    return {"attention_mask": None, "position_ids": None, **inputs}


def soft_targets(teacher: Any, temperature: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function from a teacher's states (N, H) to its log-probabilities (N, V) at a temperature."""

    def compute(states: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return (precise(teacher.project(states)) / temperature).log_softmax(dim=-1)

    return compute


def chunk_size_of(model: Any) -> int:
    """Tokens whose logits are computed at a time, as for the model's own loss."""
    config = getattr(model.config, "decoder", model.config)
    size, weight = config.loss_chunk_size or CHUNK, model.lm_head.weight
    return min(size, max(SHORTEST_CHUNK, LARGEST_BUFFER // weight.shape[0])) if weight.is_cpu else size


def chunked_sums(
    student: Any,
    states: torch.Tensor,
    targets: torch.Tensor,
    taught: torch.Tensor | None,
    soft: Callable[[torch.Tensor], torch.Tensor] | None,
    options: DistillationOptions,
) -> dict[str, torch.Tensor]:
    """Sums of both losses over tokens, with gradients to the states and to the head.

    Args:
        student: The model whose `project` maps states to logits.
        states: (N, H).
        targets: (N,).
        taught: The teacher's states, (N, its width), or None.
        soft: The function from these to log-probabilities (N, V).
        options: With temperature and alphas.
    """

    def compute(rows: slice, hidden: torch.Tensor) -> list[torch.Tensor]:
        logits = precise(student.project(hidden))
        sums = []
        if soft is not None and taught is not None:
            expected = soft(taught[rows])
            found = (logits / options.temperature).log_softmax(dim=-1)
            kl = nn.functional.kl_div(found, expected, reduction="sum", log_target=True)
            sums.append(kl * options.temperature**2)
        if options.alpha_labels:
            sums.append(nn.functional.cross_entropy(logits, targets[rows], reduction="sum"))
        return sums

    names = [*(["logits"] if soft is not None else []), *(["labels"] if options.alpha_labels else [])]
    sums = ChunkedSums.apply(compute, len(names), chunk_size_of(student), states, *head_parameters(student))
    return dict(zip(names, sums, strict=True))  # pyright: ignore[reportArgumentType] a tuple of tensors


def head_parameters(model: Any) -> list[torch.Tensor]:
    """The parameters between a model's last states and its logits."""
    parts = (getattr(model, "transform", None), model.lm_head)
    return [each for part in parts if part is not None for each in part.parameters()]


class ChunkedSums(torch.autograd.Function):
    """Several sums over chunks of tokens, whose gradients are computed while a chunk's logits are at hand.

    Nothing of the size of the vocabulary is kept between chunks but the gradient of the head.
    """

    @staticmethod
    def forward(ctx, compute, number, chunk_size, states, *parameters):
        """`compute(rows, states)` gives `number` sums of the rows (n, H) of `states` (N, H)."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        needs_grad = any(ctx.needs_input_grad)
        totals = [precise(states.new_zeros(())) for _ in range(number)]
        grads = [[precise(torch.zeros_like(each)) for each in (states, *trained)] * needs_grad for _ in totals]
        for start in range(0, len(states), chunk_size):
            rows = slice(start, start + chunk_size)
            with torch.set_grad_enabled(needs_grad):
                part = states[rows].detach().requires_grad_(needs_grad)
                sums = compute(rows, part)
            for index, value in enumerate(sums):
                totals[index] += value.detach()
                if needs_grad:
                    found = torch.autograd.grad(value, (part, *trained), retain_graph=index + 1 < number)
                    grads[index][0][rows] = found[0]
                    for total, grad in zip(grads[index][1:], found[1:], strict=True):
                        total += grad
        ctx.is_trained = [parameter.requires_grad for parameter in parameters]
        ctx.save_for_backward(*(grad for each in grads for grad in each))
        ctx.number, ctx.dtypes = number, [each.dtype for each in (states, *trained)]
        return tuple(totals)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grad_totals):
        saved, size = ctx.saved_tensors, len(ctx.dtypes)
        parts = [saved[index * size : (index + 1) * size] for index in range(ctx.number)]
        summed = [
            sum(scale * part[place] for scale, part in zip(grad_totals, parts, strict=True)).to(dtype)  # pyright: ignore[reportAttributeAccessIssue]
            for place, dtype in enumerate(ctx.dtypes)
        ]
        grads = iter(summed[1:])
        return None, None, None, summed[0], *(next(grads) if trained else None for trained in ctx.is_trained)
