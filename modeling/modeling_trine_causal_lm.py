"""The head of a decoder: the next token."""

from typing import Unpack

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from ..configuration.configuration_trine import TrineConfig
from .continuous_batching import CheckedContinuousBatching
from .generation_checks import CheckedGeneration
from .losses import chunked_lm_loss, is_plain_head, next_token_targets, smoothed_loss
from .masks import make_masks, make_position_ids
from .modeling_trine import TrineModel
from .modeling_trine_heads import TrineHead
from .outputs import TrineCausalLMOutput


class TrineForCausalLM(TrineHead, CheckedGeneration, CheckedContinuousBatching, GenerationMixin):
    """A decoder that predicts the next token.

    Args:
        config: The architecture; `is_causal` must be True.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # pyright: ignore[reportAssignmentType] lists in the library too
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: TrineConfig):
        if not config.is_causal:
            raise ValueError("is_causal=False describes an encoder; TrineForCausalLM needs is_causal=True.")
        super().__init__(config)
        self.model = TrineModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in the library
    ) -> TrineCausalLMOutput:
        """Computes logits, and the loss if there are labels. Arguments not named here are those of `TrineModel`.

        Args:
            labels: Token ids, (batch, length), -100 where nothing is predicted. They are shifted here.
            output_router_logits: Whether to return router logits and the load-balancing loss.
            logits_to_keep: Number of last positions whose logits are computed, or their indices; 0 is all.
            kwargs: Also `num_items_in_batch`, the number of targets in all micro-batches of an optimizer step;
                `shift_labels` in place of `labels`; and `label_smoothing`, the share of a target that is spread over
                the vocabulary.

        Returns:
            `loss`: mean cross-entropy in nats. In training the router losses, times their coefficients, are added for
            sparse models; in evaluation they are not, so that losses compare. `aux_loss`: the load-balancing loss
            alone. `logits` (batch, kept, vocabulary): None in training with labels while `config.loss_chunk_size` is
            set, as the loss is then computed chunk by chunk. (A head that is adapted, quantised or sharded always
            computes them.)
        """
        outputs = self.run_trunk(
            output_router_logits,
            has_labels=labels is not None,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,  # pyright: ignore[reportCallIssue] an overlap of the typed keywords
        )
        loss, logits = self.head_loss(outputs.last_hidden_state, labels, logits_to_keep, **kwargs)
        targets = None if labels is None else causal_targets(labels, **kwargs)
        loss, aux_loss = self.add_router_losses(
            loss, outputs, attention_mask, targets, kwargs.get("num_items_in_batch")
        )
        return TrineCausalLMOutput(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            **self.recorded(outputs, output_router_logits),
        )

    @staticmethod
    def create_masks_for_generate(
        config: TrineConfig,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        past_key_values: Cache,
        position_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> dict:
        """Masks for a static cache, which `generate` makes ahead of the compiled forward pass.

        The library's function sizes the masks of all windowed layers after the first one; ours differ in window.
        """
        if position_ids is None:
            position_ids = make_position_ids(inputs_embeds, attention_mask, past_key_values)
        return make_masks(config, inputs_embeds, attention_mask, past_key_values, position_ids)

    def head_loss(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor | None,
        logits_to_keep: int | torch.Tensor,
        **kwargs,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Loss and logits of the head, of which training with labels computes the loss only."""
        chunk_size = self.config.loss_chunk_size
        if self.training and labels is not None and chunk_size is not None and is_plain_head(self.lm_head):
            targets = causal_targets(labels, **kwargs)
            return chunked_lm_loss(hidden_states, self.lm_head, targets, chunk_size, **kwargs), None
        logits = self.lm_head(select_positions(hidden_states, logits_to_keep))
        if labels is None:
            return None, logits
        if kwargs.get("label_smoothing"):
            return smoothed_loss(logits, causal_targets(labels, **kwargs), **kwargs), logits
        return self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs), logits


def causal_targets(labels: torch.Tensor, shift_labels: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
    """What each position predicts, (batch, length): the next label, unless the caller shifted them already."""
    return next_token_targets(labels) if shift_labels is None else shift_labels


def select_positions(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """Selects the positions whose logits are wanted, with the library's meaning of `logits_to_keep`.

    Args:
        hidden_states: (batch, length, hidden).
        logits_to_keep: The number of last positions, 0 for all; or indices (kept,) for all sequences or (batch, kept)
            for each; or a boolean mask (batch, length), which gives (kept in all sequences, hidden).
    """
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:]
    if logits_to_keep.ndim == 1:
        return hidden_states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden_states[logits_to_keep]
    return hidden_states.take_along_dim(logits_to_keep[..., None], dim=1)


__all__ = ["TrineForCausalLM"]
