"""Builds a model of another config, with the weights that it has in common with a given one."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch

from ..modeling_trine import TrineModel


def rebuild(model: Any, config: Any, sources: Mapping[str, Sequence[int]]) -> Any:
    """A model of the same class with another config, on the same device.

    What has a counterpart of the same name and shape in `model` is a copy of it, with its type, and frozen if it is;
    everything else is as its class begins it.

    Args:
        sources: For each stack, by its name within the model, the old layer that each new one corresponds to.
    """
    options = {"add_pooling_layer": model.pooler is not None} if isinstance(model, TrineModel) else {}
    new = build(type(model), config, model, **options)
    saved, frozen = model.state_dict(), {name for name, old in model.named_parameters() if not old.requires_grad}
    for name, parameter in new.named_parameters():
        source = old_name(name, sources)
        if source in saved and saved[source].shape == parameter.shape:
            parameter.data = saved[source].clone()
            parameter.requires_grad_(source not in frozen)
    buffers = dict(model.named_buffers())
    for name, buffer in new.named_buffers():
        source = old_name(name, sources)
        if source in saved and saved[source].shape == buffer.shape:
            buffer.data = saved[source].clone()
        elif source in buffers:  # what follows from the config is not copied, but `model.to` may have changed its type
            buffer.data = buffer.to(buffers[source].dtype)
    return new


def build(model_class: Any, config: Any, like: Any, **options) -> Any:
    """A new model with the type, device and mode of another one, and its generation config where both generate."""
    with torch.device(like.device):
        new = model_class._from_config(config, dtype=like.dtype, **options)
    if new.can_generate() and getattr(like, "generation_config", None) is not None:
        new.generation_config = deepcopy(like.generation_config)
    return new.train(like.training)


def old_name(name: str, sources: Mapping[str, Sequence[int]]) -> str:
    """The name, in the old model, of the tensor that a tensor of the new one corresponds to."""
    for prefix, layers in sources.items():
        match = re.fullmatch(rf"({re.escape(prefix)}\.?layers\.)(\d+)(\..*)", name)
        if match:
            return f"{match[1]}{layers[int(match[2])]}{match[3]}"
    return name
