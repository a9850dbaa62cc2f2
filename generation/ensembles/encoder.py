"""The encoders of an ensemble as one module."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers.utils.generic import ModelOutput


class EnsembleEncoder(nn.Module):
    """Runs several encoders on the same source."""

    main_input_name = "input_ids"

    def __init__(self, members: Sequence[Any]):
        super().__init__()
        self.encoders = nn.ModuleList([member.get_encoder() for member in members])
        self.readers = [getattr(member, "with_source", None) for member in members]

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Runs every encoder; returns all outputs in one dictionary, with what pointers read of the source."""
        source = {"input_ids": input_ids, "attention_mask": attention_mask}
        given = {name: tensor for name, tensor in source.items() if tensor is not None}
        outputs = []
        for encoder, read in zip(self.encoders, self.readers, strict=True):
            found = encoder(**given, **kwargs)
            outputs.append(found if read is None else read(found, **source))
        return join_outputs(outputs)


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
