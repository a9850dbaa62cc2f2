"""Logits that are computed when they are read: training on chunks does not need them, its caller perhaps does."""

import sys
from collections.abc import Callable
from copy import copy
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import register_pytree_node
from transformers.utils.generic import ModelOutput


# Libraries that look for tensors in everything a model returns: mixed precision, parallel training, `torch.utils`.
LOOKERS = ("accelerate.", "deepspeed.", "torch.", "transformers.")
FSDP = ("torch.distributed.",)  # reads the fields of an output to the same end


class DeferredLogits:
    """Hidden states and the projection by which logits are computed later, in the same precision and with gradient.

    With `dtype` and `float()` it is told, as logits would be, to be of float32: accelerate asks so of all outputs.

    Args:
        project: Maps hidden states to logits.
        hidden_states: Its input.
        head: The module that holds the projection to the vocabulary.
    """

    def __init__(self, project: Callable[[torch.Tensor], torch.Tensor], hidden_states: torch.Tensor, head: nn.Module):
        device = hidden_states.device.type
        self.project = project
        self.hidden_states = hidden_states
        self.head = head
        self.weight_state = weight_state(head)
        self.has_gradient = torch.is_grad_enabled()
        self.is_autocast = torch.is_autocast_enabled(device)
        self.dtype = torch.get_autocast_dtype(device) if self.is_autocast else hidden_states.dtype
        self.compute_dtype = self.dtype

    def float(self) -> "DeferredLogits":
        self.dtype = torch.float32
        return self

    def compute(self) -> torch.Tensor:
        """The logits.

        Raises:
            RuntimeError: The head has changed since.
        """
        if not torch.compiler.is_compiling() and has_changed(self.head, self.weight_state):
            raise RuntimeError(
                "The logits of a training step are computed when they are read, but the model's weights have changed "
                "since its forward pass. Read outputs.logits before optimizer.step(), or set loss_chunk_size=None."
            )
        device = self.hidden_states.device.type
        autocast = torch.autocast(device, self.compute_dtype if self.is_autocast else None, self.is_autocast)
        with autocast, torch.set_grad_enabled(self.has_gradient):
            logits = self.project(self.hidden_states)
        return logits.to(self.dtype)


def flatten(deferred: DeferredLogits) -> tuple[list[torch.Tensor], DeferredLogits]:
    return [deferred.hidden_states], deferred


def unflatten(tensors: Any, deferred: DeferredLogits) -> DeferredLogits:
    result = copy(deferred)
    (result.hidden_states,) = tensors
    return result


# Parallel training hooks into the tensors of outputs. Gradients of logits flow through these.
register_pytree_node(DeferredLogits, flatten, unflatten)


def weight_state(head: nn.Module) -> tuple[int, torch.Tensor]:
    """Tells changes of a head's weight: PyTorch's count of changes, and a row, as fused optimizers count none."""
    weight: Any = head.weight
    return weight._version, getattr(weight, "_local_tensor", weight)[0].detach().clone()


def has_changed(head: nn.Module, state: tuple[int, torch.Tensor]) -> bool:
    """Whether a head's weight is another one than when `state` was taken."""
    version, row = weight_state(head)
    return version != state[0] or not torch.equal(row, state[1])


def is_looked_through(lookers: tuple[str, ...] = LOOKERS) -> bool:
    """Whether one of these packages called the caller of this function."""
    if torch.compiler.is_compiling():
        return True
    return f"{sys._getframe(2).f_globals.get('__name__')}.".startswith(lookers)


class DeferringOutput(ModelOutput):
    """An output with a field that may hold `DeferredLogits`, for which whoever reads the field gets the logits.

    So do indices, `get`, `items`, `values`, `to_tuple` and pickling. Only `LOOKERS`, which go through all outputs
    whether anybody reads them or not, see what is there.
    """

    def items(self) -> Any:
        return super().items() if is_looked_through() else {name: self[name] for name in self}.items()

    def values(self) -> Any:
        return super().values() if is_looked_through() else {name: self[name] for name in self}.values()

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            value = super().__getitem__(key)
            return getattr(self, key) if isinstance(value, DeferredLogits) else value
        names = list(self)[key]
        return tuple(self[name] for name in names) if isinstance(key, slice) else self[names]

    def get(self, key: Any, default: Any = None) -> Any:
        value = super().get(key, default)
        return self[key] if isinstance(value, DeferredLogits) else value

    def __reduce__(self) -> Any:
        for field in fields(self):  # pyright: ignore[reportArgumentType] its subclasses are dataclasses
            getattr(self, field.name)
        return super().__reduce__()


def deferring(name: str) -> Callable[[type], type]:
    """Makes `name`, a field of a dataclass below `DeferringOutput`, compute its logits when it is first read."""

    def read(self) -> Any:
        value = self.__dict__.get(name)
        if isinstance(value, DeferredLogits) and (torch.compiler.is_compiling() or not is_looked_through(FSDP)):
            value = self[name] = value.compute()
        return value

    def write(self, value: Any) -> None:
        self.__dict__[name] = value

    def decorate(cls: type) -> type:
        setattr(cls, name, property(read, write))
        return cls

    return decorate
