"""Classifiers of what is read in patches: the base of those of images."""

from typing import Any

import torch

from ...configuration.configuration_trine import TrineConfig
from ...configuration.input_kinds import INPUT_KINDS
from ..pooling import POOLINGS, sequence_masks
from .base import Output
from .classification import TrineClassifier


def require_input(config: Any, kind: str, name: str) -> None:
    """Raises a `ValueError` for a config of a model that reads something else than a head is for."""
    if config.input_type != kind:
        raise ValueError(f"input_type={config.input_type!r}, but {name} needs input_type={kind!r}.")


class PatchClassifier(TrineClassifier[Output]):
    """A linear layer on one vector an item: the class token, the mean of the patches, or the last patch.

    Args:
        config: The architecture. Its `input_type` is that which reads the class's `main_input_name`.
    """

    def __init__(self, config: TrineConfig):
        kinds = [kind for kind, row in INPUT_KINDS.items() if row.reads[0] == self.main_input_name]
        require_input(config, kinds[0], type(self).__name__)
        if config.classifier_pooling == "cls" and not getattr(config, "use_cls_token", False):
            raise ValueError("classifier_pooling='cls' reads the class token, but use_cls_token=False: take 'mean'.")
        super().__init__(config, config.num_labels, is_pooled=True)  # pyright: ignore[reportArgumentType] derived

    def answer(self, inputs, *args, **asked) -> Output:
        values: Any = inputs[self.main_input_name]
        positions = None if values is None else self.model.embed_tokens.packed_positions(values)
        return super().answer({**inputs, "attention_mask": None, "position_ids": positions}, *args, **asked)

    def classify_sequences(self, outputs: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if outputs.pooler_output is not None:
            return self.classify(outputs.pooler_output)
        states, positions = outputs.last_hidden_state, inputs["position_ids"]
        masks = sequence_masks(states, None, positions)
        if self.config.classifier_pooling == "mean":
            places = torch.arange(states.shape[1], device=states.device)[None] if positions is None else positions
            masks = masks * (places >= self.model.embed_tokens.num_prefix_tokens).to(masks)
        return self.classify(POOLINGS[self.config.classifier_pooling](states, masks))


__all__ = ["PatchClassifier"]
