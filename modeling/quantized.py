"""Saving of models whose weights torchao has quantised: what transformers does, with three things mended."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


NAMES = "tensor_names"  # in the metadata of a file: the names of all its tensors


def is_packed(tensor: Any) -> bool:
    """Whether a tensor is one of torchao's, with integers and scales in place of numbers."""
    return hasattr(tensor, "qdata")


@contextmanager
def quantized_saving(model: Any) -> Iterator[dict[str, Any]]:
    """Within it `save_pretrained` of a model that torchao has quantised writes what can be loaded again.

    It yields the options that `save_pretrained` needs.

    A tied weight is stored once: transformers compares two with an operator that torchao lacks. And the trunk can be
    loaded alone, or with another head: transformers looks tensors up by their names in the class that was saved.

    Raises:
        ValueError: The weights were quantised in memory, of which no config tells.
    """
    names = [name for name, tensor in model.named_parameters() if is_packed(tensor)]
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if not names:
        yield {}
        return
    if quantizer is None:
        raise ValueError(
            f"'{names[0]}' and {len(names) - 1} more weights were quantised in memory, which no config says: they "
            "could not be loaded again. Save the model before, and quantise it by `trine quantize SOURCE TARGET`, or "
            "load it with from_pretrained(..., quantization_config=TorchAoConfig(...)), which can be saved."
        )
    flatten = quantizer.get_state_dict_and_metadata

    def flatten_once(saved: Any) -> tuple[dict[str, Any], dict[str, str]]:
        tensors, metadata = flatten(saved)
        for name in model.all_tied_weights_keys:
            if is_packed(model.get_parameter(name)):
                module, _, own = name.rpartition(".")
                tensors = {key: value for key, value in tensors.items() if not key.startswith(f"{module}._{own}_")}
                metadata.pop(name, None)
        return tensors, with_other_names(metadata, f"{model.base_model_prefix}.")

    quantizer.get_state_dict_and_metadata = flatten_once
    try:
        yield {"save_original_format": False}  # transformers cannot undo how it reads them; a second saving would fail
    finally:
        del quantizer.get_state_dict_and_metadata


def with_other_names(metadata: dict[str, str], prefix: str) -> dict[str, str]:
    """Tells of each tensor under its name with a head and under that without, too."""
    known = {name: text for name, text in metadata.items() if name != NAMES}
    others = {
        name.removeprefix(prefix) if name.startswith(prefix) else prefix + name: text
        for name, text in known.items()
        if json.loads(text).get("_type") != "Tensor"
    }
    return {**others, **known, NAMES: json.dumps([*{**others, **known}])}
