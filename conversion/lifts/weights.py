"""Builds a model of another config, with the weights that it shares with a given one."""

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from ...modeling.modeling_trine import TrineModel


def rebuild(model: Any, config: Any, sources: Mapping[str, Sequence[int]]) -> Any:
    """A model of the same class with another config, and the weights that both have.

    Args:
        sources: For each stack, by its name within the model, the old layer that each new one corresponds to.
    """
    new = build(type(model), config, model, **class_options(model))
    copy_tensors(model, new, lambda name: old_name(name, sources))
    return new


def class_options(model: Any) -> dict[str, Any]:
    """The options that a model's class was given besides its config."""
    return {"add_pooling_layer": model.pooler is not None} if isinstance(model, TrineModel) else {}


def build(model_class: Any, config: Any, like: Any, **options) -> Any:
    """A new model with the type, device and mode of another one, and its generation config where both generate."""
    with torch.device(like.device):
        new = model_class._from_config(config, dtype=like.dtype, **options)
    if new.can_generate() and getattr(like, "generation_config", None) is not None:
        new.generation_config = deepcopy(like.generation_config)
    return new.train(like.training)


def copy_tensors(old: nn.Module, new: nn.Module, source_of: Callable[[str], str] = str) -> None:
    """Copies each tensor of `old` to its counterpart of the same shape in `new`, with its type, frozen or not.

    Everything else stays as it is.

    Args:
        source_of: Maps a name in `new` to the counterpart's. Default: the same name.
    """
    saved, frozen = old.state_dict(), {name for name, tensor in old.named_parameters() if not tensor.requires_grad}
    for name, parameter in new.named_parameters():
        source = source_of(name)
        if source in saved and saved[source].shape == parameter.shape:
            parameter.data = saved[source].to(parameter.device, copy=True)
            parameter.requires_grad_(source not in frozen)
    buffers = dict(old.named_buffers())
    for name, buffer in new.named_buffers():
        source = source_of(name)
        if source in saved and saved[source].shape == buffer.shape:
            buffer.data = saved[source].to(buffer.device, copy=True)
        elif source in buffers:  # what follows from the config is not copied, but `model.to` may have changed its type
            buffer.data = buffer.to(buffers[source].dtype)


def old_name(name: str, sources: Mapping[str, Sequence[int]]) -> str:
    """The name in the old model of the counterpart of a tensor of the new one."""
    for prefix, layers in sources.items():
        match = re.fullmatch(rf"({re.escape(prefix)}\.?layers\.)(\d+)(\..*)", name)
        if match:
            return f"{match[1]}{layers[int(match[2])]}{match[3]}"
    return name
