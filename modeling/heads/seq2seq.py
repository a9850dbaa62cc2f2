"""The base of the heads on an encoder-decoder, and the head that predicts target tokens."""

from dataclasses import fields
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from ...configuration.configuration_trine_seq2seq import TrineSeq2SeqConfig
from ...configuration.lazy_choices import LazyChoices, later
from ..checks.batching import BatchingGenerationMixin
from ..checks.generation import CHECKED, MendedGeneration
from ..losses import shift_right
from ..masks.masks import make_position_ids, make_ready_masks
from ..modeling_trine_seq2seq import TrineSeq2SeqModel, TrineSeq2SeqPreTrainedModel
from ..outputs import TrineSeq2SeqLMOutput, TrineSeq2SeqModelOutput
from .base import Head, Kept, Output, Prediction, Target, make_forward
from .token_head import TokenHead, select_positions


POINTERS = LazyChoices("has_pointer", {True: later(".pointer", "PointerHead")}, package=__package__)
PREDICTED = ("last_hidden_state", "past_key_values")  # what the heads make their predictions of


class TrineSeq2SeqHead(TrineSeq2SeqPreTrainedModel, Head[Output]):
    """A head on a `TrineSeq2SeqModel`."""

    model: TrineSeq2SeqModel
    records = {field.name: field.name for field in fields(TrineSeq2SeqModelOutput) if field.name not in PREDICTED}

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.set_input_embeddings(value)

    def has_experts(self) -> bool:
        return "sparse" in {*self.config.encoder.mlp_layer_types, *self.config.decoder.mlp_layer_types}

    def routed(self, outputs: TrineSeq2SeqModelOutput, inputs: dict[str, Any]) -> list[tuple[Any, Any, Any]]:
        return [
            (self.model.encoder, outputs.encoder_router_logits, inputs["attention_mask"]),
            (self.model.decoder, outputs.decoder_router_logits, inputs.get("decoder_attention_mask")),
        ]


class TrineForConditionalGeneration(
    TrineSeq2SeqHead[TrineSeq2SeqLMOutput],
    TokenHead,
    *CHECKED,  # pyright: ignore[reportGeneralTypeIssues] one or none
    MendedGeneration,
    BatchingGenerationMixin,
):
    """An encoder-decoder that predicts the target tokens: translation, summarisation and the like.

    Logits are (batch, target length, vocabulary). `forward` takes what `TrineSeq2SeqModel` takes, and:

    * `labels`: target tokens, (batch, target length), -100 where nothing is predicted. Unless they are given, the
      decoder's inputs are the labels after `config.decoder_start_token_id`. The loss is the mean cross-entropy in
      nats.
    * `logits_to_keep`: the number of last positions whose logits are computed, or their indices; 0 is all.
    * `output_router_logits`: whether to return router logits of both stacks and the load-balancing loss, `aux_loss`.
    * `num_items_in_batch`: the number of targets in all micro-batches of an optimizer step.
    * `label_smoothing`: the share of a target that is spread over the vocabulary.

    In training with labels, while the decoder's `loss_chunk_size` is set, logits are computed when they are first
    read, as the loss does not need them.

    With `config.pointer_size` the model is a pointer-generator, which copies tokens of the source, too: `logits` are
    then the log-probabilities of its mixture, in float32 or better, so that every way of decoding works as it does
    with logits. The ids of the source are needed: beside `encoder_outputs` give `input_ids`, unless `generate` made
    them.

    Args:
        config: Both stacks.
    """

    output_class = TrineSeq2SeqLMOutput
    _tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: TrineSeq2SeqConfig):
        super().__init__(config)
        self.model = TrineSeq2SeqModel(config)
        self.lm_head = nn.Linear(config.decoder.hidden_size, config.decoder.vocab_size, bias=False)
        self.pointer: Any = POINTERS[True](config) if config.has_pointer else None
        self.loss_type = "ForMaskedLM"  # labels are aligned with what the decoder reads: nothing is shifted again
        self.post_init()

    def ties(self) -> dict[str, str]:
        return self._tied_weights_keys if self.config.tie_word_embeddings else {}

    def save_pretrained(self, *args, **kwargs) -> None:
        """Saves as transformers does, after PEFT, too: merging calls a head untied that shares the decoder's table."""
        if self.lm_head.weight is getattr(self.model.decoder.embed_tokens, "weight", None):
            self.config.tie_word_embeddings = True
        super().save_pretrained(*args, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """For transformers' collators."""
        return shift_right(labels, self.config)

    def generate(self, *args, custom_generate: Any = None, **kwargs) -> Any:
        """Transformers'; but a decoder that reads both sides has to be asked by a `custom_generate` for such ones."""
        if not self.config.decoder_is_causal and not getattr(custom_generate, "reads_both_sides", False):
            raise ValueError(
                "decoder_is_causal=False: the decoder reads both sides of a token, so that it cannot write token by "
                "token. Use generate(custom_generate=MaskPredict()), from trine.generation.mask_predict."
            )
        return super().generate(*args, custom_generate=custom_generate, **kwargs)

    def answer(self, inputs, targets, *args, **asked) -> TrineSeq2SeqLMOutput:
        labels, states = targets["labels"], inputs["encoder_outputs"]
        self.check_labels(labels, inputs["input_ids"], inputs["inputs_embeds"], states and states[0])
        if inputs["decoder_input_ids"] is None and inputs["decoder_inputs_embeds"] is None:
            if labels is None:
                raise ValueError("One of decoder_input_ids, decoder_inputs_embeds and labels must be given.")
            if not self.config.decoder_is_causal:
                raise ValueError(
                    "decoder_is_causal=False: the decoder reads both sides, so that labels alone would show it what "
                    "it is to predict. Give decoder_input_ids with masked tokens, as MaskedTargetCollator makes them."
                )
            inputs = {**inputs, "decoder_input_ids": shift_right(labels, self.config)}
        return super().answer(inputs, targets, *args, **asked)

    def predict(self, outputs, inputs, labels: Target = None, logits_to_keep: Kept = 0, **kwargs) -> Prediction:
        hidden_states = select_positions(outputs.last_hidden_state, logits_to_keep)
        if self.config.logit_scale != 1:
            hidden_states = hidden_states * self.config.logit_scale
        chunk_size = self.config.decoder.loss_chunk_size
        head: Any = self if self.pointer is None else self.pointer.head_of(self, outputs, inputs, logits_to_keep)
        loss, logits = head.loss_and_logits(hidden_states, labels, labels, chunk_size, **kwargs)
        return loss, labels, {"logits": logits, "past_key_values": outputs.past_key_values}

    names = (
        *("input_ids", "attention_mask", "position_ids"),
        *("decoder_input_ids", "decoder_attention_mask", "decoder_position_ids", "encoder_outputs", "past_key_values"),
        *("inputs_embeds", "decoder_inputs_embeds", "labels", "use_cache", "output_router_logits", "logits_to_keep"),
    )
    forward = make_forward(TrineSeq2SeqModel, names, predict, output_class)

    @staticmethod
    def create_masks_for_generate(
        config: TrineSeq2SeqConfig,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        past_key_values: EncoderDecoderCache,
        **kwargs,
    ) -> dict:
        """Masks of the decoder for a static cache, which `generate` makes ahead of the compiled forward pass."""
        self_cache = past_key_values.self_attention_cache
        position_ids = kwargs.get("position_ids")
        if position_ids is None:
            position_ids = make_position_ids(inputs_embeds, attention_mask, self_cache)
        return make_ready_masks(config.decoder, inputs_embeds, attention_mask, self_cache, position_ids)

    def with_source(self, encoder_outputs: Any, input_ids: torch.Tensor | None, attention_mask: Any = None) -> Any:
        """The encoder's outputs with what a pointer reads of the source; without a pointer, as they are."""
        if self.pointer is None:
            return encoder_outputs
        return self.pointer.with_source(self.model.encoder, encoder_outputs, input_ids, attention_mask)

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor: torch.Tensor, model_kwargs: dict, model_input_name: str | None, *args: Any
    ) -> dict:
        """Lets a pointer read the source once: its rows are repeated for beams, as those of the encoder are."""
        made = super()._maybe_prepare_encoder_kwargs_for_generation(
            inputs_tensor, model_kwargs, model_input_name, *args
        )
        ids = inputs_tensor if model_input_name in (None, "input_ids") else None
        made["encoder_outputs"] = self.with_source(made["encoder_outputs"], ids, made.get("attention_mask"))
        return made

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs) -> None:
        """Gives cross-attention a cache without windows: transformers builds it from the decoder's layers."""
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.get("past_key_values")
        if isinstance(cache, EncoderDecoderCache) and not any(cache.is_updated.values()):
            model_kwargs["past_key_values"] = EncoderDecoderCache(cache.self_attention_cache, DynamicCache())


__all__ = ["TrineForConditionalGeneration", "TrineSeq2SeqHead"]
