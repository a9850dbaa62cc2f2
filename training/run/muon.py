"""Muon: the optimizer of `--optim muon`, momentum made orthogonal for matrices and AdamW for all else."""

# Shapes: N matrices of one shape, A rows, B columns.

import math
import os
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from transformers import PreTrainedModel, TrainingArguments

from ...modeling.feed_forward.experts import StackedExperts
from .parallelism import Parallelism


MUON = "muon"
# Of five steps that take singular values between 0.001 and 1 into 0.7 to 1.2 (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
ADAM_STATE = ("exp_avg", "exp_avg_sq", "step")
EPS = 1e-7
SHARDED = ("fsdp", "deepspeed")  # arguments of the trainer, and what `accelerate launch` says with ON
ON = ("1", "true")


class Muon(torch.optim.Optimizer):
    """Groups with `is_matrix` are stepped along orthogonal matrices, the others as AdamW does.

    A matrix moves by `0.2 * sqrt(max(A, B)) * lr` times the orthogonal matrix nearest to its Nesterov momentum: an
    element moves as far as with AdamW, so that one learning rate suits both. Matrices of one shape are made orthogonal
    together; each expert of a stack (E, A, B) is a matrix.

    Args:
        params: Groups of parameters; those with `is_matrix=True` have two dimensions or three.
        lr: Learning rate.
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: Decoupled, by the learning rate, for both.
        momentum: Of the matrices.
        dtype: Type of the products that make matrices orthogonal; bfloat16 suffices where the device is fast in it.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; scale: Liu et al. 2025, arXiv 2502.16982.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.bfloat16,
    ):
        self.dtype = dtype
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, {**defaults, "is_matrix": False})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Moves all parameters that have gradients; returns what `closure` does."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            params: list[Tensor] = [param for param in group["params"] if param.grad is not None]
            if params:
                (self._step_matrices if group["is_matrix"] else self._step_others)(group, params)
        return loss

    def _step_others(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in params:
            if not self.state[param]:
                zeros = (torch.zeros_like(param), torch.zeros_like(param), torch.tensor(0.0))
                self.state[param] = dict(zip(ADAM_STATE, zeros, strict=True))
        gradients: Any = [param.grad for param in params]
        averages, squares, steps = ([self.state[param][name] for param in params] for name in ADAM_STATE)
        beta1, beta2 = group["betas"]
        adamw(
            params,
            gradients,
            averages,
            squares,
            [],
            steps,
            foreach=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _step_matrices(self, group: dict[str, Any], params: list[Tensor]) -> None:
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for param in params:
            alike[param.shape[-2:]].append(param)
        for shape, some in alike.items():
            ahead = [self._ahead(param, group["momentum"]).reshape(-1, *shape) for param in some]
            moves = orthogonal(torch.cat(ahead), self.dtype).to(some[0])  # (N, A, B)
            for param, move in zip(some, moves.split([len(part) for part in ahead]), strict=True):
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(move.view_as(param), alpha=-0.2 * math.sqrt(max(shape)) * group["lr"])

    def _ahead(self, param: Tensor, momentum: float) -> Tensor:
        """Updates the running mean of a parameter's gradients; returns Nesterov's, which looks one step ahead."""
        gradient: Any = param.grad
        if not self.state[param]:
            self.state[param] = {"momentum_buffer": torch.zeros_like(param)}
        mean = self.state[param]["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """About the nearest (semi-)orthogonal matrix to each of (N, A, B), in that type: singular values are near 1."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    wide = (matrices.mT if is_tall else matrices).to(dtype)
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + EPS)
    for _ in range(STEPS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if is_tall else wide


class MuonFactory:
    """Makes a `Muon` for a model; for the argument `optimizer_cls_and_kwargs` of transformers' trainers.

    Weights of linear layers and of experts move as matrices. Embeddings, the language model head, routers, recurrent
    layers, norms and biases are AdamW's. Weights of at least two dimensions decay.
    """

    def __call__(self, model: PreTrainedModel, *, weight_decay: float = 0.1, **options: Any) -> Muon:
        """Sorts the model's parameters into groups; `options` are those of `Muon`."""
        matrices = {id(weight) for weight in find_matrices(model)}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
        for name, param in model.named_parameters():
            if param.requires_grad:
                groups[id(param) in matrices, param.dim() > 1 and "bias" not in name].append(param)
        return Muon(
            [
                {"params": params, "is_matrix": is_matrix, "weight_decay": weight_decay if decays else 0.0}
                for (is_matrix, decays), params in groups.items()
            ],
            **options,
        )


def find_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """The weights of linear layers (A, B) and of experts (E, A, B), without embeddings and the head."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    ends = [layer.weight for layer in ends if layer is not None]
    weights = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            weights.append(module.weight)
        elif isinstance(module, StackedExperts):
            weights += [weight for weight in module.parameters(recurse=False) if weight.dim() == 3]
    return [weight for weight in weights if all(weight is not end for end in ends)]


def choose_optimizer(training: TrainingArguments) -> tuple[type[MuonFactory], dict[str, Any]] | None:
    """Returns the argument `optimizer_cls_and_kwargs` of a trainer for `optim='muon'`, and None for any other."""
    if training.optim != MUON:
        return None
    betas = (training.adam_beta1, training.adam_beta2)
    dtype = torch.bfloat16 if training.bf16 else torch.float32
    options = {"lr": training.learning_rate, "betas": betas, "eps": training.adam_epsilon, "dtype": dtype}
    return MuonFactory, {**options, "weight_decay": training.weight_decay}


def check_whole(training: TrainingArguments, parallel: Parallelism) -> None:
    """Raises a ValueError for `optim='muon'` where a process holds parts of matrices; none is orthogonal by parts."""
    launched = {name: os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() in ON for name in SHARDED}
    values = {name: getattr(training, name) or launched[name] for name in SHARDED}
    cuts = [f"{name}={value!r}" for name, value in values.items() if value]
    cuts += [] if parallel.is_one else [str(parallel)]
    if training.optim == MUON and cuts:
        raise ValueError(f"optim='muon' needs whole matrices, and {cuts[0]} cuts them: choose another optimizer.")
