"""Checks of a layer by itself: that it can be made and filled, what it computes, its gradients, its attributes."""

# Shapes: B batch, N tokens.

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from .results import Difference, DoesNotApply, require_equal, require_finite
from .subjects import Subject, output_of, random_ids


STEP = 1e-6  # of finite differences
LARGE_STEP = 1e-3  # of those that float32 does not drown in rounding


def check_construction(subject: Subject) -> None:
    """Models of every shape and layout can be made, run, and give outputs of the right shape, also for one token."""
    for what, fields in subject.cases():
        model = subject.model(**fields)
        with torch.no_grad():
            for batch, length in ((1, 1), (2, 2), (3, 13)):
                ids = random_ids(batch, length)
                output = output_of(model(ids, use_cache=False))
                if output.shape[:2] != ids.shape:
                    raise Difference(f"{what}: {tuple(output.shape)} is no output for ids of {tuple(ids.shape)}")
                require_finite(output, f"{what}, {length} tokens")


@contextmanager
def poisoned() -> Iterator[None]:
    """Fills what `torch.empty` and its relatives return with NaN, so that reading uninitialised memory shows."""
    with torch.device("meta"):
        torch.empty(0)  # PyTorch notes at this first use which functions a device redirects

    def poison(make: Any) -> Any:
        def make_poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = make(*args, **kwargs)
            if tensor.is_floating_point() and not tensor.is_meta:
                with torch.no_grad():
                    tensor.fill_(torch.nan)
            return tensor

        return make_poisoned

    owners = ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty"))
    patches = [patch.object(owner, name, poison(getattr(owner, name))) for owner, name in owners]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def check_initialization(subject: Subject) -> None:
    """Each parameter and buffer is filled, whether a model is made in memory or its tensors come to be afterwards."""
    for what, fields in subject.cases():
        with poisoned():
            first, second = (tensors_of(subject.build(dtype=torch.float32, **fields)) for _ in range(2))
            with torch.device("meta"):
                late = subject.build(dtype=torch.float32, **fields)
            late = late.to_empty(device="cpu")
            late.init_weights()
        for name, tensor in first.items():
            require_finite(tensor.float(), f"{what}: {name} of a new model")
            if not torch.equal(tensor, second[name]):
                raise Difference(f"{what}: {name} differs between two models of one seed")
        for part in subject.parts(late):
            kept = {id(tensor) for tensor in tensors_of(part).values()}
            for name, tensor in tensors_of(late).items():
                if id(tensor) in kept:
                    check_filled(tensor, first[name], f"{what}: {name}")


def check_filled(tensor: torch.Tensor, made: torch.Tensor, what: str) -> None:
    if not tensor.isfinite().all():
        raise Difference(f"{what} is not filled when a model is loaded whose checkpoint lacks it")
    if made.numel() > 1 and made.unique().numel() == 1 and not torch.equal(tensor, made):
        raise Difference(f"{what} is {made.flatten()[0]:.3g} in a new model, but not when a checkpoint lacks it")


def check_oracle(subject: Subject) -> str:
    """In a decoder without positions, a layer computes what its author's function does, and has its gradients."""
    if subject.oracle is None:
        raise DoesNotApply("no oracle was given")
    model = subject.model(**subject.first(), position_type="none")
    part, leaf, output = call_inside(subject, model)
    results = []
    for found in (output, subject.oracle(part, leaf)):
        found = list(found) if isinstance(found, tuple) else [found]
        if subject.field == "attention_types":
            del found[1:]  # the weights
        leaf.grad = None
        total = sum((one * torch.arange(1, one.shape[-1] + 1)).sum() for one in found)
        if isinstance(total, torch.Tensor) and total.requires_grad:
            total.backward()
        results.append((found, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad))
    (actual, gradient), (expected, expected_gradient) = results
    if len(actual) != len(expected):
        raise Difference(f"{len(actual)} outputs, where the oracle has {len(expected)}")
    pairs = [*zip(actual, expected, strict=True), (gradient, expected_gradient)]
    told = [*(f"output {index}" for index in range(len(actual))), "the gradient of the input"]
    largest = max(require_equal(*pair, what, 1e-8) for pair, what in zip(pairs, told, strict=True))
    return f"differs by at most {largest:.1g}"


def call_inside(subject: Subject, model: Any) -> tuple[nn.Module, torch.Tensor, Any]:
    """Runs a model; returns a module of the mechanism, its input, which collects gradients, and its output."""
    part = subject.parts(model)[0]
    seen: dict[str, Any] = {}

    def enter(module: nn.Module, inputs: Any) -> Any:
        seen["input"] = inputs[0].detach().requires_grad_()
        return seen["input"], *inputs[1:]

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        seen["output"] = output

    part.register_forward_pre_hook(enter)
    part.register_forward_hook(leave)
    model(random_ids(2, 9), use_cache=False)
    return part, seen["input"], seen["output"]


def check_gradients(subject: Subject) -> str:
    """The gradients of input and parameters are those of finite differences, and each parameter has one.

    One that only training reads, such as that of noise, has none in evaluation, and nothing to compare it with.
    """
    worst = 0.0
    for what, fields in [*subject.cases()][:: 2 if subject.field != "position_type" else 1]:
        model = subject.model(**{**fields, "num_hidden_layers": 1 if subject.field == "attention_types" else 2})
        embeddings = torch.randn(2, 7, model.config.hidden_size, dtype=torch.float64, requires_grad=True)
        parameters = {"the input": embeddings}
        for part in subject.parts(model):
            parameters |= {name: parameter for name, parameter in part.named_parameters() if parameter.requires_grad}
        direction = torch.randn(output_of(model(inputs_embeds=embeddings)).shape, dtype=torch.float64)

        loss = partial(project, model, embeddings, direction)

        loss().backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                worst = max(worst, compare_with_steps(loss, parameter, f"{what}: {name}"))
        unread = [name for name, parameter in parameters.items() if parameter.grad is None]
        if unread:
            project(model.train(), embeddings, direction).backward()
        for name in unread:
            if parameters[name].grad is None:
                raise Difference(f"{what}: {name} gets no gradient")
    return f"relative error at most {worst:.1g}"


def project(model: Any, embeddings: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    return (output_of(model(inputs_embeds=embeddings, use_cache=False)) * direction).sum()


def compare_with_steps(loss: Any, parameter: torch.Tensor, what: str) -> float:
    """Compares the gradient of a tensor, along one random direction, with a step to either side."""
    actual, expected = along_direction(loss, parameter, STEP)
    error = abs(expected - actual) / max(1.0, abs(expected))
    if not error < 1e-5:
        near, other = along_direction(loss, parameter, LARGE_STEP)
        is_rounding = abs(near - other) < 1e-2 * max(1.0, abs(other))
        told = f"{what}: the gradient along a direction is {actual:.6g}, a step says {expected:.6g}"
        raise Difference(told, is_rounding)
    return error


@torch.no_grad()
def along_direction(loss: Any, parameter: torch.Tensor, size: float) -> tuple[float, float]:
    """The slope of the loss along a random direction, by the gradient and by steps of a size."""
    assert parameter.grad is not None
    step = torch.randn_like(parameter) * size
    parameter.add_(step)
    above = loss()
    parameter.sub_(2 * step)
    below = loss()
    parameter.add_(step)
    return (parameter.grad * step).sum().item() / size, (above - below).item() / 2 / size


def snapshot(part: nn.Module) -> dict[str, Any]:
    """The attributes of a module and those within it, with copies of lists, sets and dictionaries."""
    found = {}
    for prefix, module in part.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_forward") or name.startswith("_backward"):
                continue
            if isinstance(value, (list, dict, set)):
                value = copy.copy(value)
            found[f"{prefix}.{name}".strip(".")] = value
        found |= {
            f"{prefix}.{name}".strip("."): (buf, buf._version) for name, buf in module.named_buffers(recurse=False)
        }
    return found


def is_same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, dict, set, tuple)) and type(one) is type(other):
        if isinstance(one, set) or len(one) != len(other):
            return len(one) == len(other) and one == other
        ones, others = (list(x.items()) if isinstance(x, dict) else list(x) for x in (one, other))
        return all(is_same(a, b) for a, b in zip(ones, others, strict=True))
    return one is other or (isinstance(one, (int, float, str)) and one == other)


def check_attributes(subject: Subject) -> None:
    """A forward pass leaves every attribute of the module as it is, in training and in generation."""
    model = subject.model(**subject.first())
    ids = random_ids(2, 9)
    for part in subject.parts(model):
        for what, run in {
            "a forward pass": lambda: model.eval()(ids, use_cache=False),
            "a step of training": lambda: output_of(model.train()(ids, use_cache=False)).sum().backward(),
            "generation": lambda: model.eval().generate(ids, max_new_tokens=2, do_sample=False),
        }.items():
            model.eval() if what != "a step of training" else model.train()
            before = snapshot(part)
            run()
            after = snapshot(part)
            for name in {**before, **after}:
                if name not in before or name not in after or not is_same(before[name], after[name]):
                    raise Difference(f"{what} writes {name!r}")
