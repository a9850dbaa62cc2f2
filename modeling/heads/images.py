"""Heads of models that read images: classes of whole images, and the pixels of hidden patches."""

# Shapes: B images, C channels, Y height and X width in pixels, N patches, L tokens, H hidden.

from typing import Any, Unpack

import torch
from torch import nn
from transformers.utils.generic import TransformersKwargs

from ...configuration.configuration_trine import TrineConfig
from ..inputs.images import uncut
from ..modeling_trine import TrineModel
from ..outputs import TrineImageClassifierOutput, TrineMaskedImageModelingOutput
from .base import Prediction, Target, TrineHead, make_forward
from .classification_losses import sequence_loss
from .patches import PatchClassifier, require_input


class ImageTrunk:
    """The arguments of a trunk that reads images."""

    def forward(
        self,
        pixel_values: torch.Tensor | list[torch.Tensor] | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
    ) -> Any:
        """See `TrineModel.forward`."""


class TrineForImageClassification(PatchClassifier[TrineImageClassifierOutput]):
    """Classes, many labels, or values of whole images: logits (images, labels).

    `pixel_values` are (B, C, Y, X), or a list of images (C, Y, X) of any sizes, which go without padding in one row;
    `labels` are those of `TrineForSequenceClassification`. `config.classifier_pooling` chooses what is classified: the
    class token, or the `mean` of the patches, without class and register tokens.

    Args:
        config: The architecture, with `input_type="image"`, and with `num_labels` or `id2label`.
    """

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    output_class = TrineImageClassifierOutput

    def predict(self, outputs, inputs, labels: Target = None, **kwargs) -> Prediction:
        logits = self.classify_sequences(outputs, inputs)
        loss = None if labels is None else sequence_loss(self.config, logits, labels, kwargs.get("num_items_in_batch"))
        return loss, labels, {"logits": logits}

    forward = make_forward(ImageTrunk, ("pixel_values", "labels", "output_router_logits"), predict, output_class)


class TrineForMaskedImageModeling(TrineHead[TrineMaskedImageModelingOutput]):
    """An encoder that paints hidden patches: `reconstruction` (B, C, Y, X).

    `bool_masked_pos` (B, N) is True for the patches that a learned token takes the place of. Their loss is the mean of
    the absolute differences of their pixels, a sum over hidden pixels over their number.
    Source: Xie et al. 2021, SimMIM, arXiv 2111.09886; hidden patches: Bao et al. 2021, BEiT, arXiv 2106.08254.

    Args:
        config: The architecture, with `input_type="image"` and `use_mask_token=True`; `is_causal` must be False.
    """

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    output_class = TrineMaskedImageModelingOutput

    def __init__(self, config: TrineConfig):
        fields: Any = config
        require_input(config, "image", type(self).__name__)
        for name, needed in (("use_mask_token", True), ("is_causal", False)):
            if getattr(config, name) != needed:
                raise ValueError(f"{name}={getattr(config, name)}, but {type(self).__name__} needs {name}={needed}.")
        super().__init__(config)
        self.model = TrineModel(config, add_pooling_layer=False)
        self.decoder = nn.Linear(config.hidden_size, fields.num_channels * fields.patch_size**2)
        self.post_init()

    def answer(self, inputs, targets, *args, **asked) -> TrineMaskedImageModelingOutput:
        if isinstance(inputs["pixel_values"], list | tuple):
            raise ValueError(
                "pixel_values are a list, but hidden patches are painted in images of one size: stack them."
            )
        inputs = {**inputs, "attention_mask": None}
        return super().answer(inputs, {"hidden_patches": inputs["bool_masked_pos"]}, *args, **asked)

    def predict(self, outputs, inputs, hidden_patches: Target = None, **kwargs) -> Prediction:
        patches, images = self.model.embed_tokens, inputs["pixel_values"]
        painted = self.decoder(outputs.last_hidden_state[:, patches.num_prefix_tokens :])
        loss = None
        if hidden_patches is not None:
            distances = (painted - patches.cut(images).to(painted)).abs().to(torch.float32)
            hidden = hidden_patches.to(device=distances.device, dtype=distances.dtype)[..., None]
            loss = (distances * hidden).sum() / (hidden.sum() * distances.shape[-1]).clamp(min=1)
        picture = uncut(painted, patches.grid_of(images), patches.num_channels)
        return loss, None, {"reconstruction": picture}

    names = ("pixel_values", "bool_masked_pos", "output_router_logits")
    forward = make_forward(ImageTrunk, names, predict, output_class)


__all__ = ["TrineForImageClassification", "TrineForMaskedImageModeling"]
