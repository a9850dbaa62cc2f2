"""The head of a decoder: the next token."""

from typing import Unpack

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from ...configuration.configuration_trine import TrineConfig
from ..checks.batching import BatchingGenerationMixin
from ..checks.generation import Generation
from ..losses import causal_targets
from ..masks.masks import make_position_ids, make_ready_masks
from ..modeling_trine import TrineModel
from ..outputs import TrineCausalLMOutput
from .base import Prediction, TrineHead
from .token_head import TokenHead, select_positions


CACHED_INPUTS = ("input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "use_cache")


class TrineForCausalLM(TrineHead[TrineCausalLMOutput], TokenHead, Generation, BatchingGenerationMixin):  # pyright: ignore[reportGeneralTypeIssues] `Generation` is one of two classes
    """A decoder that predicts the next token.

    Args:
        config: The architecture; `is_causal` must be True.
    """

    output_class = TrineCausalLMOutput
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # pyright: ignore[reportAssignmentType] lists in transformers too
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
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
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
            alone. `logits` (batch, kept, vocabulary): in training with labels, while `config.loss_chunk_size` is set,
            they are computed when they are first read, as the loss does not need them.

        Raises:
            ValueError: Labels lie outside the vocabulary, or what the trunk raises.
        """
        shifted = kwargs.get("shift_labels")
        self.check_labels(labels if shifted is None else shifted)
        inputs = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        named = dict(zip(CACHED_INPUTS, inputs, strict=True))
        return self.answer(named, labels, output_router_logits, kwargs, logits_to_keep=logits_to_keep)

    def predict(self, outputs, labels, inputs, logits_to_keep=0, **kwargs) -> Prediction:
        targets = None if labels is None else causal_targets(labels, **kwargs)
        hidden_states = select_positions(outputs.last_hidden_state, logits_to_keep)
        loss, logits = self.loss_and_logits(hidden_states, labels, targets, self.config.loss_chunk_size, **kwargs)
        return loss, targets, {"logits": logits, "past_key_values": outputs.past_key_values}

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

        Transformers' function sizes the masks of all windowed layers after the first one; ours differ in window.
        """
        if position_ids is None:
            position_ids = make_position_ids(inputs_embeds, attention_mask, past_key_values)
        return make_ready_masks(config, inputs_embeds, attention_mask, past_key_values, position_ids)


__all__ = ["TrineForCausalLM"]
