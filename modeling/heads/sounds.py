"""The head of models that read sounds: classes of whole sounds."""

from typing import Any, Unpack

import torch
from transformers.utils.generic import TransformersKwargs

from ..outputs import TrineImageClassifierOutput
from .base import Prediction, Target, make_forward
from .classification_losses import sequence_loss
from .patches import PatchClassifier


class AudioTrunk:
    """The arguments of a trunk that reads sounds."""

    def forward(
        self,
        input_values: torch.Tensor | list[torch.Tensor] | None = None,
        input_features: torch.Tensor | list[torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
    ) -> Any:
        """See `TrineModel.forward`."""


class TrineForAudioClassification(PatchClassifier[TrineImageClassifierOutput]):
    """Classes, many labels, or values of whole sounds: logits (sounds, labels).

    `input_values`, also called `input_features`, are spectrograms (batch, frames, mel bands), or a list of such of any
    lengths, which go without padding in one row; `labels` are those of `TrineForSequenceClassification`.

    Args:
        config: The architecture, with `input_type="audio"`, and with `num_labels` or `id2label`.
    """

    main_input_name = "input_values"
    input_modalities = ("audio",)
    output_class = TrineImageClassifierOutput

    def answer(self, inputs, *args, **asked) -> TrineImageClassifierOutput:
        also = inputs.pop("input_features")
        inputs["input_values"] = also if inputs["input_values"] is None else inputs["input_values"]
        return super().answer(inputs, *args, **asked)

    def predict(self, outputs, inputs, labels: Target = None, **kwargs) -> Prediction:
        logits = self.classify_sequences(outputs, inputs)
        loss = None if labels is None else sequence_loss(self.config, logits, labels, kwargs.get("num_items_in_batch"))
        return loss, labels, {"logits": logits}

    names = ("input_values", "input_features", "labels", "output_router_logits")
    forward = make_forward(AudioTrunk, names, predict, output_class)


__all__ = ["TrineForAudioClassification"]
