"""Checks that a model can be lifted."""

from copy import deepcopy
from typing import Any

import torch

from ...modeling.heads.base import TrineHead
from ...modeling.heads.seq2seq import TrineSeq2SeqHead
from ...modeling.modeling_trine import TrineModel
from ...modeling.modeling_trine_seq2seq import TrineSeq2SeqModel
from .weights import class_options


CLASSES = (TrineModel, TrineHead, TrineSeq2SeqModel, TrineSeq2SeqHead)


def check_model(model: Any, role: str = "model") -> None:
    """Raises a `ValueError` unless a model is of a Trine class, has that class's tensors only, and is on one device.

    Args:
        role: Name of the model in the message.
    """
    if not isinstance(model, CLASSES):
        names = [each.__name__ for each in CLASSES]
        raise ValueError(f"{role} is a {type(model).__name__}, but must be one of {names} or of their subclasses.")
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(devices) > 1:
        raise ValueError(f"{role} has weights on the devices {devices}; a lift takes one that is on a single device.")
    with torch.device("meta"):
        model_class: Any = type(model)
        plain = model_class(deepcopy(model.config), **class_options(model)).state_dict()
    for name, tensor in model.state_dict().items():
        if name not in plain or tensor.shape != plain[name].shape:
            raise ValueError(
                f"{role} has the tensor '{name}' {tuple(tensor.shape)}, which is none of {type(model).__name__} with "
                "its config. Merge or remove adapters and quantization first."
            )
