"""A decoder that reads pictures: patches that an encoder has read take the places of tokens."""

# Shapes: B rows of a batch, N tokens in a row, I images, P patches of all images, H hidden of the decoder.

from itertools import accumulate
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.activations import ACT2FN
from transformers.utils.generic import can_return_tuple

from ..configuration.configuration_trine_image_text import TrineImageTextConfig
from ..configuration.patterns import check_choice
from .checks.caches import compiles
from .checks.generation import CHECKED, MendedGeneration
from .checks.ids import IGNORE_INDEX
from .heads.causal_lm import TrineForCausalLM
from .initialization import fill_
from .modeling_trine import TrineModel, TrinePreTrainedModel, supports_flash
from .outputs import TrineCausalLMOutput


class PatchProjector(nn.Module):
    """`W2 act(W1 x)` with biases, which makes of states of patches (P, hidden of the encoder) tokens, (P, H).

    Source: Liu et al. 2023, LLaVA 1.5, arXiv 2310.03744, section 3.2.
    """

    def __init__(self, config: TrineImageTextConfig):
        super().__init__()
        self.config = config.text_config
        self.up_proj = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)
        check_choice("projector_hidden_act", config.projector_hidden_act, ACT2FN)
        self.act_fn = ACT2FN[config.projector_hidden_act]
        self.down_proj = nn.Linear(config.text_config.hidden_size, config.text_config.hidden_size)

    def initialize(self) -> None:
        """Fills both layers, as the decoder's `initializer` says."""
        fill_(self.up_proj.weight, self.config)
        fill_(self.down_proj.weight, self.config)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Maps (..., hidden of the encoder) to (..., H)."""
        return self.down_proj(self.act_fn(self.up_proj(states)))


class TrineForImageTextToText(
    TrinePreTrainedModel,
    *CHECKED,  # pyright: ignore[reportGeneralTypeIssues] one or none
    MendedGeneration,
    GenerationMixin,
):
    """A decoder that predicts the next token, and reads pictures where `config.image_token_id` stands.

    An encoder reads each picture, and each of its patches takes the place of one such token; class and register tokens
    are left out. Source: Liu et al. 2023, LLaVA, arXiv 2304.08485.

    Args:
        config: Both stacks.
    """

    config_class = TrineImageTextConfig
    config: TrineImageTextConfig  # pyright: ignore[reportIncompatibleVariableOverride] another family of configs
    input_modalities = ("image", "text")
    _can_record_outputs = None  # each trunk records its own

    def __init__(self, config: TrineImageTextConfig):
        super().__init__(config)
        self.vision_model = TrineModel(config.vision_config, add_pooling_layer=False)
        self.projector = PatchProjector(config)
        self.language_model = TrineForCausalLM(config.text_config)
        self.post_init()

    @property
    def _supports_flash_attn(self) -> bool:
        return supports_flash(self.config.text_config) and supports_flash(self.config.vision_config)

    @property
    def _can_compile_fullgraph(self) -> bool:
        return compiles(self.config.text_config.layer_types)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.lm_head

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        self.language_model.lm_head = new_embeddings

    def position_limits(self) -> tuple[int | None, int | None]:
        """As of the decoder."""
        return self.language_model.position_limits()

    def get_image_features(self, pixel_values: torch.Tensor | list[torch.Tensor]) -> list[torch.Tensor]:
        """The tokens that each image becomes, (patches, H) each.

        Args:
            pixel_values: (I, channels, height, width), or a list of images of any sizes.
        """
        patches: Any = self.vision_model.embed_tokens
        states = self.vision_model(pixel_values=pixel_values).last_hidden_state
        first = patches.num_prefix_tokens
        if isinstance(pixel_values, torch.Tensor):
            return [*self.projector(states[:, first:])]
        sizes = [rows * columns for rows, columns in map(patches.grid_of, patches.items(pixel_values))]
        parts = states[0].split([first + size for size in sizes])
        return [*self.projector(torch.cat([part[first:] for part in parts])).split(sizes)]

    def embed(
        self, input_ids: torch.Tensor | None, pixel_values: torch.Tensor | list[torch.Tensor] | None, is_first: bool
    ) -> torch.Tensor:
        """Embeds tokens (B, N) as (B, N, H), with the patches of images in the places of image tokens, in order.

        Raises:
            ValueError: There are no ids, or the images do not fill the places of a row, or are missing.
        """
        if input_ids is None:
            raise ValueError("pixel_values take the places of tokens in input_ids, which are missing.")
        places = input_ids == self.config.image_token_id
        if pixel_values is None:
            if is_first and not torch.compiler.is_compiling() and places.any():
                raise ValueError(
                    f"input_ids hold {int(places.sum())} image tokens (image_token_id={self.config.image_token_id}), "
                    "but pixel_values are missing."
                )
            return self.language_model.model.embed(input_ids, None)
        images = self.get_image_features(pixel_values)
        check_places(places.sum(dim=-1).tolist(), [len(image) for image in images])
        states = self.language_model.model.embed(input_ids, None)
        tokens = torch.cat(images).to(states)
        return states.masked_scatter(places.to(states.device)[..., None], tokens)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | list[torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> TrineCausalLMOutput:
        """Predicts the next tokens. Arguments are those of `TrineForCausalLM`, and:

        Args:
            input_ids: (B, N); each patch of an image takes the place of one `config.image_token_id`, row by row.
            pixel_values: (I, channels, height, width), or a list of images of any sizes; in the order of their tokens.
                A row may have any number of images, and none.
            labels: (B, N). Image tokens are never predicted.

        Raises:
            ValueError: Images are missing, or do not fill the places of a row; embeddings are given beside images; or
                what the stacks raise.
        """
        if inputs_embeds is None:
            is_first = past_key_values is None or not past_key_values.get_seq_length()
            inputs_embeds = self.embed(input_ids, pixel_values, is_first)
        elif pixel_values is not None:
            raise ValueError("pixel_values are given beside inputs_embeds, in which they have no places.")
        if labels is not None and input_ids is not None:
            labels = labels.masked_fill(input_ids == self.config.image_token_id, IGNORE_INDEX)
        kwargs["return_dict"] = True
        return self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def generate(self, inputs: Any = None, *args: Any, pixel_values: Any = None, **kwargs: Any) -> Any:
        """As transformers' `generate`; images are read once, before beams or several answers repeat a row."""
        if pixel_values is not None:
            ids = kwargs.pop("input_ids", inputs)
            with torch.no_grad():
                embeddings = self.embed(ids, pixel_values, is_first=True)
            return super().generate(None, *args, input_ids=ids, inputs_embeds=embeddings, **kwargs)
        return super().generate(inputs, *args, **kwargs)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Raises a `ValueError`: a paged cache is filled with tokens alone."""
        raise ValueError(
            "model_type='trine_image_text' reads images, which continuous batching does not; use generate."
        )

    @staticmethod
    def create_masks_for_generate(config: Any, *args: Any, **kwargs: Any) -> dict:
        """Masks for a static cache, as of the decoder."""
        return TrineForCausalLM.create_masks_for_generate(getattr(config, "text_config", config), *args, **kwargs)


def check_places(tokens: list[int], patches: list[int]) -> None:
    """Raises a `ValueError` unless images fill the image tokens of each row.

    Args:
        tokens: The number of image tokens of each row.
        patches: The number of patches of each image.
    """
    ends, filled = {0, *accumulate(patches)}, [*accumulate(tokens)]
    if filled[-1] != sum(patches):
        raise ValueError(
            f"input_ids hold {filled[-1]} image tokens, but {len(patches)} images have {sum(patches)} patches: each "
            "patch takes the place of one token, which a processor puts there."
        )
    for row, end in enumerate(filled):
        if end not in ends:
            raise ValueError(
                f"Row {row} of input_ids holds {tokens[row]} image tokens, which no whole images of {patches} patches "
                "fill: each image belongs to one row."
            )


__all__ = ["TrineForImageTextToText"]
