"""The dual encoder: texts and images as vectors of one space, each by a Trine trunk of its own."""

# Shapes: B rows of a batch, N tokens in a row, T texts, I images, P size of a vector.

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils.generic import ModelOutput, can_return_tuple

from ..configuration.choices import Choices
from ..configuration.configuration_trine_dual import TrineDualEncoderConfig
from ..configuration.lazy_choices import LazyChoices, later
from .initialization import fill_
from .modeling_trine import TrineModel, TrinePreTrainedModel, supports_flash
from .outputs import TrineModelOutput
from .pooling import sequence_masks


@dataclass
class TrineDualEncoderOutput(ModelOutput):
    """Output of a dual encoder, with the names of CLIP's.

    `logits_per_image` (I, T) and its transpose `logits_per_text` (T, I): scaled cosines, with the bias of `sigmoid`.
    `text_embeds` (T, P) and `image_embeds` (I, P): vectors of length 1. `text_model_output` and `vision_model_output`:
    outputs of the trunks, whose `pooler_output` are the vectors before they are normalised.
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_model_output: TrineModelOutput | None = None
    vision_model_output: TrineModelOutput | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


class TowerProjection(nn.Linear):
    """A linear map of a pooled state (..., hidden) to a vector (..., P)."""

    def __init__(self, stack: Any, size: int, bias: bool):
        super().__init__(stack.hidden_size, size, bias=bias)
        self.config = stack

    def initialize(self) -> None:
        """Fills the weights, as the stack's `initializer` says."""
        fill_(self.weight, self.config)


def make_linear(stack: Any, size: int) -> nn.Module:
    return TowerProjection(stack, size, bias=False)


def make_affine(stack: Any, size: int) -> nn.Module:
    return TowerProjection(stack, size, bias=True)


def make_none(stack: Any, size: int) -> nn.Module:
    return nn.Identity()


TEXT_PROJECTIONS = Choices("text_projection", {"linear": make_linear, "affine": make_affine, "none": make_none})
VISION_PROJECTIONS = Choices("vision_projection", {"linear": make_linear, "affine": make_affine, "none": make_none})
# Each maps states (B, N, H), the masks (T, N) of the tokens of texts, ids (B, N) or None, and the config to (T, H).
TEXT_POOLINGS = LazyChoices(
    "text_pooling",
    {
        "cls": later(".tower_pooling", "pool_first"),
        "mean": later(".tower_pooling", "pool_mean"),
        "last": later(".tower_pooling", "pool_last"),
        "eos": later(".tower_pooling", "pool_eos"),
        "highest_id": later(".tower_pooling", "pool_highest"),
        "end": later(".tower_pooling", "pool_end"),
    },
    package=__package__,
)
VISION_POOLINGS = LazyChoices(
    "vision_pooling",
    {
        "cls": later(".tower_pooling", "ClassTokenPooling"),
        "mean": later(".tower_pooling", "MeanPooling"),
        "attention": later(".attention_pooling", "AttentionPooling"),
    },
    package=__package__,
)
LOSSES = LazyChoices(
    "contrastive_loss",
    {"softmax": later(".contrastive", "softmax_loss"), "sigmoid": later(".contrastive", "sigmoid_loss")},
    package=__package__,
)
LOGIT_BIASES = Choices("contrastive_loss", {"sigmoid": lambda: nn.Parameter(torch.empty(()))})


class TrineDualEncoder(TrinePreTrainedModel):
    """Texts and images as vectors of one space, in which those that belong together are near each other.

    Source: Radford et al. 2021, CLIP, arXiv 2103.00020; the sigmoid loss: Zhai et al. 2023, SigLIP, arXiv 2303.15343.

    Args:
        config: Both stacks, and what makes vectors of their states.
    """

    config_class = TrineDualEncoderConfig
    config: TrineDualEncoderConfig  # pyright: ignore[reportIncompatibleVariableOverride] another family of configs
    input_modalities = ("image", "text")
    accepts_loss_kwargs = False  # the loss of a micro-batch is a mean over its own pairs
    _can_record_outputs = None  # each trunk records its own
    _can_compile_fullgraph = False  # pyright: ignore[reportAssignmentType] there is no `generate` to compile

    def __init__(self, config: TrineDualEncoderConfig):
        super().__init__(config)
        self.text_model = TrineModel(config.text_config)
        self.vision_model = TrineModel(config.vision_config)
        self.vision_pooling = VISION_POOLINGS[config.vision_pooling](config.vision_config)
        self.text_projection = TEXT_PROJECTIONS[config.text_projection](config.text_config, config.projection_dim)
        self.visual_projection = VISION_PROJECTIONS[config.vision_projection](
            config.vision_config, config.projection_dim
        )
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.logit_bias: Any = None
        for loss, make in LOGIT_BIASES.items():
            if loss == config.contrastive_loss:
                self.logit_bias = make()
        self.post_init()

    @property
    def _supports_flash_attn(self) -> bool:
        return supports_flash(self.config.text_config) and supports_flash(self.config.vision_config)

    def initialize(self) -> None:
        """Fills scale and bias of the logits."""
        init.constant_(self.logit_scale, self.config.logit_scale_init_value)
        if self.logit_bias is not None:
            init.constant_(self.logit_bias, self.config.logit_bias_init_value)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.embed_tokens = value

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> TrineModelOutput:
        """The output of the trunk that reads texts; its `pooler_output` (T, P) are their vectors, not normalised.

        Arguments are those of `TrineModel`. One row may pack several texts, whose positions begin again.

        Raises:
            ValueError: What the trunk raises, or a text without the token that `text_pooling` reads.
        """
        outputs = self.read_texts(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        outputs.pooler_output = self.text_projection(outputs.pooler_output)
        return outputs

    def read_texts(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> TrineModelOutput:
        """As `get_text_features`, but `pooler_output` (T, hidden) are the states that are projected."""
        if position_ids is None and self.config.text_pooling == "end" and input_ids is not None:
            position_ids = torch.arange(input_ids.shape[-1], device=input_ids.device)[None]  # padding is read, too
        outputs = self.text_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **{**kwargs, "return_dict": True, "use_cache": False},
        )
        states, pooled = outputs.last_hidden_state, outputs.pooler_output
        if pooled is None or self.config.text_pooling != "cls":
            masks = sequence_masks(states, attention_mask, position_ids)
            pool = TEXT_POOLINGS[self.config.text_pooling]
            pooled = pool(states, masks, input_ids, self.config.text_config)
        outputs.pooler_output = pooled
        return outputs

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor | list[torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> TrineModelOutput:
        """The output of the trunk that reads images; its `pooler_output` (I, P) are their vectors, not normalised.

        Args:
            pixel_values: (I, channels, height, width), or a list of images of any sizes, which goes without padding.
        """
        kwargs.pop("interpolate_pos_encoding", None)  # as CLIP's is asked; here it always happens
        outputs = self.vision_model(pixel_values=pixel_values, **{**kwargs, "return_dict": True})
        states, pooled = outputs.last_hidden_state, outputs.pooler_output
        if pooled is None or self.config.vision_pooling != "cls":
            patches: Any = self.vision_model.embed_tokens
            positions = patches.packed_positions(pixel_values)
            places = torch.arange(states.shape[1], device=states.device)[None] if positions is None else positions
            masks = sequence_masks(states, None, positions)
            pooled = self.vision_pooling(states, masks, places - patches.num_prefix_tokens)
        outputs.pooler_output = self.visual_projection(pooled)
        return outputs

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | list[torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        inputs_embeds: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> TrineDualEncoderOutput:
        """Compares all texts with all images.

        Args:
            input_ids: (T, N), as in `get_text_features`.
            pixel_values: As in `get_image_features`.
            attention_mask: 1 for a token and 0 for padding, (T, N).
            position_ids: (T, N).
            return_loss: Whether to return `config.contrastive_loss`: text number i belongs to image number i.
            inputs_embeds: (T, N, hidden), in place of `input_ids`.
            text_states: (T, hidden), what `read_texts` pooled before, in place of texts: training that leaves the
                stack as it is reads each text once.

        Raises:
            ValueError: Texts and their states are given; with `return_loss`, other numbers of texts and images; or
                what the trunks raise.
        """
        kwargs["return_dict"] = True
        image_output: Any = self.get_image_features(pixel_values=pixel_values, **kwargs)
        if text_states is None:
            text_output: Any = self.get_text_features(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        elif input_ids is not None or inputs_embeds is not None:
            raise ValueError("text_states are given beside input_ids or inputs_embeds: give one of them.")
        else:
            text_output = TrineModelOutput(pooler_output=self.text_projection(text_states))
        texts, images = (
            nn.functional.normalize(output.pooler_output, dim=-1) for output in (text_output, image_output)
        )
        logits = torch.matmul(texts, images.T.to(texts)) * self.logit_scale.exp().to(texts)
        if self.logit_bias is not None:
            logits = logits + self.logit_bias.to(logits)
        loss = None
        if return_loss:
            if logits.shape[0] != logits.shape[1]:
                raise ValueError(
                    f"return_loss=True pairs each text with an image, but there are {logits.shape[0]} texts and "
                    f"{logits.shape[1]} images."
                )
            loss = LOSSES[self.config.contrastive_loss](logits)
        return TrineDualEncoderOutput(
            loss=loss,
            logits_per_image=logits.T,
            logits_per_text=logits,
            text_embeds=texts,
            image_embeds=images,
            text_model_output=text_output,
            vision_model_output=image_output,
        )


__all__ = ["TrineDualEncoder"]
