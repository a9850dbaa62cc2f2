"""The head of models that read series: their next steps, as one value or as quantiles."""

# Shapes: B windows, T steps read, P steps predicted, C channels, N patches, H hidden, Q quantiles.

from typing import Any, Unpack

import torch
from torch import nn
from transformers.utils.generic import TransformersKwargs

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig
from ..checks.ids import can_look, has_shape
from ..modeling_trine import TrineModel
from ..outputs import TrineTimeSeriesPredictionOutput
from .base import Prediction, Target, TrineHead, make_forward
from .patches import require_input


class SeriesTrunk:
    """The arguments of a trunk that reads series."""

    def forward(
        self,
        past_values: torch.Tensor | None = None,
        past_observed_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
    ) -> Any:
        """See `TrineModel.forward`."""


def squared_errors(predicted: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
    """Squared differences (B, P, C) of one prediction (B, P, C, 1)."""
    return (predicted[..., 0] - future) ** 2


def absolute_errors(predicted: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
    """Absolute differences (B, P, C) of one prediction (B, P, C, 1)."""
    return (predicted[..., 0] - future).abs()


def pinball_losses(predicted: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
    """Twice the pinball losses of quantiles (B, P, C, Q), their mean over the levels: about the CRPS, (B, P, C).

    Source: Koenker and Bassett 1978, Regression quantiles; Gneiting and Raftery 2007, section 4.2.
    """
    levels = quantile_levels(predicted.shape[-1]).to(predicted)
    above = future[..., None] - predicted
    return 2 * torch.maximum(levels * above, (levels - 1) * above).mean(dim=-1)


def quantile_levels(number: int) -> torch.Tensor:
    """Levels i / (number + 1), i from 1 on, (number,), in float64."""
    return torch.arange(1, number + 1, dtype=torch.float64) / (number + 1)


ERRORS = Choices("loss", {"mse": squared_errors, "mae": absolute_errors, "quantile": pinball_losses})
LEVELS = Choices("loss", {"quantile": lambda config: config.num_quantiles})


class TrineForTimeSeriesPrediction(TrineHead[TrineTimeSeriesPredictionOutput]):
    """Next steps of series: `prediction_outputs` (B, P, C), a linear map of all patches of a channel.

    `past_values` are (B, T, C), missing ones marked by 0 in `past_observed_mask`; `future_values` (B, P, C), with
    `future_observed_mask`, are compared in their own unit, or in units of `loss_scale` (B, 1, C), by which errors are
    divided. `config.loss` is `mse`, `mae`, or `quantile`, which also gives `quantile_predictions` (B, P, C, Q) at the
    levels i / (Q + 1), in ascending order in evaluation. The loss is a mean over the observed future values.
    Source: Nie et al. 2023, PatchTST, arXiv 2211.14730, the flattened head that channels share.

    Args:
        config: The architecture, with `input_type="series"`.
    """

    main_input_name = "past_values"
    input_modalities = ("time",)
    output_class = TrineTimeSeriesPredictionOutput

    def __init__(self, config: TrineConfig):
        fields: Any = config
        require_input(config, "series", type(self).__name__)
        super().__init__(config)
        self.model = TrineModel(config)
        self.outputs = LEVELS[fields.loss](config) if fields.loss in LEVELS else 1
        self.errors = ERRORS[fields.loss]
        self.horizon = fields.prediction_length
        patches: Any = self.model.embed_tokens
        self.projection = nn.Linear(patches.num_patches * config.hidden_size, self.horizon * self.outputs)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.post_init()

    def answer(self, inputs, targets, *args, **asked) -> TrineTimeSeriesPredictionOutput:
        check_future(targets, inputs["past_values"], self.horizon)
        return super().answer({**inputs, "attention_mask": None, "use_cache": False}, targets, *args, **asked)

    def predict(
        self,
        outputs,
        inputs,
        future_values: Target = None,
        future_observed_mask: Target = None,
        loss_scale: Target = None,
        **kwargs,
    ) -> Prediction:
        values = inputs["past_values"]
        _, location, scale = self.model.embed_tokens.scale(values, inputs["past_observed_mask"])
        mapped = self.projection(self.dropout(outputs.last_hidden_state.flatten(1)))
        mapped = mapped.reshape(len(values), -1, self.horizon, self.outputs).transpose(1, 2)
        predicted = mapped.to(scale.dtype) * scale[..., None] + location[..., None]
        loss = None
        if future_values is not None:
            future, observed = future_values.to(predicted), future_observed_mask
            observed = torch.ones_like(future) if observed is None else observed.to(future)
            units = torch.ones_like(scale) if loss_scale is None else loss_scale.to(scale)
            errors = self.errors(predicted / units[..., None], torch.where(observed > 0, future, 0.0) / units)
            loss = (errors * observed).sum() / observed.sum().clamp(min=1.0)
        fields = {"loc": location, "scale": scale, "prediction_outputs": predicted[..., self.outputs // 2]}
        if self.outputs > 1:
            ordered = predicted if self.training else predicted.sort(dim=-1).values
            fields |= {"quantile_predictions": ordered, "prediction_outputs": ordered[..., self.outputs // 2]}
        return loss, None, fields

    names = (
        "past_values",
        "past_observed_mask",
        "future_values",
        "future_observed_mask",
        "loss_scale",
        "output_router_logits",
    )
    forward = make_forward(SeriesTrunk, names, predict, output_class)


def check_future(targets: dict[str, Any], values: torch.Tensor | None, horizon: int) -> None:
    """Raises a `ValueError` for future values, a mask or a scale of another shape, and values that are no numbers."""
    future = targets["future_values"]
    if future is None or values is None:
        return
    shapes = {
        "future_values": (len(values), horizon, values.shape[-1]),
        "future_observed_mask": (len(values), horizon, values.shape[-1]),
        "loss_scale": (len(values), 1, values.shape[-1]),
    }
    for name, shape in shapes.items():
        if targets[name] is not None and not has_shape(targets[name], shape):
            raise ValueError(f"{name} has shape {tuple(targets[name].shape)}, but must have {shape}.")
    observed = targets["future_observed_mask"]
    if can_look(future) and not (future.isfinite() if observed is None else future.isfinite() | (observed == 0)).all():
        raise ValueError("future_values hold values that are not finite: mark them by 0 in future_observed_mask.")


__all__ = ["TrineForTimeSeriesPrediction"]
