"""The head of a decoder: the next token."""

from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig
from ..checks.batching import BatchingGenerationMixin
from ..checks.generation import CHECKED, MendedGeneration
from ..lean import COMPILED, COMPILED_CALLS
from ..losses import causal_targets
from ..masks.masks import make_position_ids, make_ready_masks
from ..modeling_trine import TrineModel
from ..outputs import TrineCausalLMOutput
from .base import Kept, Prediction, Target, TrineHead, make_forward
from .token_head import TokenHead, select_positions


class PrefixGeneration(GenerationMixin):
    """`generate` of a decoder with `config.prefix_lm`: `prefix_length` tokens of the prompt, by default all, see each
    other. The first pass over the prompt reads them; with a cache, later steps need nothing.

    A cache that already holds tokens was filled with the prefix of its own prompt: no more is read both ways then.
    """

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, generation_mode: Any, batch_size: int, max_cache_length: int
    ) -> None:
        """Fills in the prefix, as soon as padding is known and the batch has its beams.

        Raises:
            ValueError: It is longer than the prompt: what is generated would be a part of it, and change it.
        """
        cache, prefix = model_kwargs.get("past_key_values"), model_kwargs.get("prefix_length")
        is_new = cache is None or not cache.get_seq_length()
        if self.config.prefix_lm and is_new:  # pyright: ignore[reportAttributeAccessIssue] of the model
            tokens = model_kwargs["position_ids"][:, -1] + 1
            if prefix is None:
                model_kwargs["prefix_length"] = tokens
            elif (tokens < prefix).any():
                raise ValueError(f"prefix_length={prefix} is above the number of tokens in the prompts, {tokens}.")
        super()._prepare_cache_for_generation(  # pyright: ignore[reportAttributeAccessIssue] of the model
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Any,
        past_key_values: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        prefix_length: Any = None,
        **kwargs: Any,
    ) -> dict:
        """Hands the prefix to the pass that reads it, with the padding mask that a static cache would replace."""
        inputs = super().prepare_inputs_for_generation(  # pyright: ignore[reportAttributeAccessIssue] of the model
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        if prefix_length is None:
            return inputs
        is_read = past_key_values is not None and past_key_values.get_seq_length()
        if is_read and not kwargs.get("is_first_iteration"):
            return inputs
        return {**inputs, "attention_mask": attention_mask, "prefix_length": prefix_length}


PREFIXED = Choices("prefix_lm", {True: PrefixGeneration})


class TrineForCausalLM(  # pyright: ignore[reportGeneralTypeIssues] one or none of some bases
    TrineHead[TrineCausalLMOutput],
    TokenHead,
    *CHECKED,
    *COMPILED,
    *PREFIXED.values(),
    MendedGeneration,
    BatchingGenerationMixin,
):
    """A decoder that predicts the next token: logits (batch, kept, vocabulary).

    `forward` takes what `TrineModel` takes, and:

    * `labels`: token ids, (batch, length), -100 where nothing is predicted. They are shifted here, unless
      `shift_labels` are given beside them, which are. The loss is the mean cross-entropy in nats.
    * `logits_to_keep`: the number of last positions whose logits are computed, or their indices; 0 is all.
    * `output_router_logits`: whether to return router logits and the load-balancing loss, `aux_loss`.
    * `num_items_in_batch`: the number of targets in all micro-batches of an optimizer step.
    * `label_smoothing`: the share of a target that is spread over the vocabulary.

    In training with labels, while `config.loss_chunk_size` is set, logits are computed when they are first read, as
    the loss does not need them. The router losses of sparse models, times their coefficients, are added to the loss in
    training; in evaluation they are not, so that losses compare.

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

    def answer(self, inputs, targets, output_router_logits, kwargs, **asked) -> TrineCausalLMOutput:
        shifted = kwargs.get("shift_labels")
        self.check_labels(targets["labels"] if shifted is None else shifted)
        return super().answer(inputs, targets, output_router_logits, kwargs, **asked)

    def predict(self, outputs, inputs, labels: Target = None, logits_to_keep: Kept = 0, **kwargs) -> Prediction:
        targets = None if labels is None else causal_targets(labels, **kwargs)
        hidden_states = select_positions(outputs.last_hidden_state, logits_to_keep)
        loss, logits = self.loss_and_logits(hidden_states, labels, targets, self.config.loss_chunk_size, **kwargs)
        return loss, targets, {"logits": logits, "past_key_values": outputs.past_key_values}

    names = ("input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "labels", "use_cache")
    names += ("output_router_logits", "logits_to_keep", "prefix_length")
    forward = make_forward(TrineModel, names, predict, output_class)

    def get_compiled_call(self, compile_config: Any) -> Any:
        """A compiled call of the model, for the steps of `generate`."""
        calls = [call for compiled in COMPILED_CALLS if (call := compiled(self, compile_config)) is not None]
        return calls[0] if calls else super().get_compiled_call(compile_config)

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
