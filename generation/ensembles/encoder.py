"""The encoders of an ensemble as one module."""

from typing import Any

from torch import nn
from transformers.utils.generic import ModelOutput


class EnsembleEncoder(nn.Module):
    """Runs several encoders on the same source."""

    main_input_name = "input_ids"

    def __init__(self, encoders: list[nn.Module]):
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, **kwargs: Any) -> dict[str, Any]:
        """Runs every encoder; returns all outputs in one dictionary."""
        return join_outputs([encoder(**kwargs) for encoder in self.encoders])


def join_outputs(outputs: list[ModelOutput]) -> dict[str, Any]:
    """Puts all outputs into one flat dictionary, as `generate` repeats its tensors for beams and moves them."""
    joined: dict[str, Any] = {"kinds": [type(output) for output in outputs]}
    for index, output in enumerate(outputs):
        joined |= {f"{index}.{name}": value for name, value in output.items()}
    return joined


def split_outputs(joined: dict[str, Any]) -> list[Any]:
    """Splits a dictionary of `join_outputs` into the members' outputs."""
    parts: list[dict[str, Any]] = [{} for _ in joined["kinds"]]
    for key, value in joined.items():
        index, _, name = key.partition(".")
        if name:
            parts[int(index)][name] = value
    return [kind(**part) for kind, part in zip(joined["kinds"], parts, strict=True)]
