"""The recurrent baseline: sequence to sequence with LSTMs, a fixed context vector or dot-product attention.

Source: Sutskever et al. 2014, arXiv 1409.3215; Cho et al. 2014, arXiv 1406.1078; Luong et al. 2015, arXiv 1508.04025.
"""

# Shapes: B batch, S tokens of the source, T tokens of the target, H hidden size, V vocabulary.

from typing import Any, Unpack

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import Seq2SeqModelOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from ..configuration.configuration_trine_recurrent import TrineRecurrentConfig
from .checks.batching import BatchingGenerationMixin
from .checks.generation import CHECKED, MendedGeneration
from .heads.base import Head, Kept, Prediction, Target, make_forward
from .heads.token_head import TokenHead, select_positions
from .losses import shift_right
from .outputs import TrineRecurrentLMOutput
from .recurrent.stacks import TrineRecurrentDecoder, TrineRecurrentEncoder, TrineRecurrentPreTrainedModel


class TrineRecurrentModel(TrineRecurrentPreTrainedModel):
    """Encoder and decoder without a head.

    Args:
        config: The architecture.
    """

    def __init__(self, config: TrineRecurrentConfig):
        super().__init__(config)
        self.encoder = TrineRecurrentEncoder(config)
        self.decoder = TrineRecurrentDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.encoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
    ) -> Seq2SeqModelOutput:
        """Computes what each token of the target is predicted from.

        Args:
            input_ids: Token ids of the source, (B, S).
            attention_mask: (B, S), 0 for padding, on either side. Default: there is none.
            decoder_input_ids: Token ids of the target, (B, T), which begin with `config.decoder_start_token_id`.
            decoder_attention_mask: (B, T with the cached tokens), 0 for padding. Padding after the last token changes
                nothing that comes before it, so this is needed for padding on the left only.
            encoder_outputs: What `get_encoder()` returned, in place of the source; the mask is still needed.
            past_key_values: The decoder's state after earlier tokens.
            inputs_embeds: (B, S, H), in place of `input_ids`.
            decoder_inputs_embeds: (B, T, H), in place of `decoder_input_ids`.
            use_cache: Whether the decoder's state is returned.
            kwargs: `output_hidden_states`, `output_attentions`.

        Returns:
            `last_hidden_state` (B, T, H), the cache, the encoder's states, and what was asked for: hidden states of
            both sides, one for the embeddings and one a layer; for `attention="dot"` `cross_attentions`, a tuple of
            one tensor (B, 1, T, S).

        Raises:
            ValueError: If ids lie outside the vocabulary, one of ids and embeddings is not given or both are, or a
                mask does not fit.
        """
        options = {**kwargs, "return_dict": True}  # of the two stacks, which share the config
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **options
            )
        decoder_outputs = self.decoder(
            inputs_embeds=self.encoder.embed(decoder_input_ids, decoder_inputs_embeds, "decoder_"),
            encoder_outputs=encoder_outputs,
            attention_mask=decoder_attention_mask,
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **options,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoder_outputs.last_hidden_state,
            past_key_values=decoder_outputs.past_key_values,
            decoder_hidden_states=decoder_outputs.hidden_states,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
        )


RECORDED = ("decoder_hidden_states", "cross_attentions", "encoder_last_hidden_state", "encoder_hidden_states")


class TrineRecurrentForConditionalGeneration(
    TrineRecurrentPreTrainedModel,
    Head[TrineRecurrentLMOutput],
    TokenHead,
    *CHECKED,  # pyright: ignore[reportGeneralTypeIssues] one or none
    MendedGeneration,
    BatchingGenerationMixin,
):
    """Predicts the next token of the target: logits (B, kept, V).

    `forward` takes what `TrineRecurrentModel` takes, and:

    * `labels`: token ids that are predicted, (B, T), -100 where nothing is. Without decoder inputs, these are made
      from the labels. The loss is the mean cross-entropy in nats.
    * `logits_to_keep`: the number of last positions whose logits are computed, or their indices; 0 is all.
    * `num_items_in_batch`: the number of labels in all micro-batches of an optimizer step.
    * `label_smoothing`: the share of a label that is spread over the vocabulary.

    In training with labels, while `config.loss_chunk_size` is set, logits are computed when they are first read, as
    the loss does not need them.

    `generate` keeps the decoder's state in a `TrineRecurrentCache`. Assisted decoding is an error, because a state
    cannot go back to before a rejected token.

    Args:
        config: The architecture.
    """

    output_class = TrineRecurrentLMOutput
    records = {name: name for name in RECORDED}
    _tied_weights_keys = {"lm_head.weight": "model.encoder.embed_tokens.weight"}
    _is_stateful = True

    def __init__(self, config: TrineRecurrentConfig):
        super().__init__(config)
        self.model = TrineRecurrentModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.loss_type = (
            "ForMaskedLM"  # labels are aligned with the logits; the class name would choose a shifted loss
        )
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """The first forward pass makes the cache; transformers' would hold keys and values."""
        return False

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Decoder inputs (B, T) of `labels` (B, T), for transformers' collators."""
        return shift_right(labels, self.config)

    def answer(self, inputs, targets, output_router_logits, *args, **asked) -> TrineRecurrentLMOutput:
        labels, states = targets["labels"], inputs["encoder_outputs"]
        self.check_labels(labels, inputs["input_ids"], inputs["inputs_embeds"], states and states[0])
        nothing_given = inputs["decoder_input_ids"] is None and inputs["decoder_inputs_embeds"] is None
        if labels is not None and nothing_given:
            inputs = {**inputs, "decoder_input_ids": shift_right(labels, self.config)}
        return super().answer(inputs, targets, False, *args, **asked)

    def predict(self, outputs, inputs, labels: Target = None, logits_to_keep: Kept = 0, **kwargs) -> Prediction:
        hidden_states = select_positions(outputs.last_hidden_state, logits_to_keep)
        loss, logits = self.loss_and_logits(hidden_states, labels, labels, self.config.loss_chunk_size, **kwargs)
        return loss, labels, {"logits": logits, "past_key_values": outputs.past_key_values}

    names = (
        *("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "encoder_outputs"),
        *("past_key_values", "inputs_embeds", "decoder_inputs_embeds", "labels", "use_cache", "logits_to_keep"),
    )
    forward = make_forward(TrineRecurrentModel, names, predict, output_class)

    def has_experts(self) -> bool:
        """Always False."""
        return False


# Auto class to head class, as for the other families.
RECURRENT_HEADS = {"AutoModelForSeq2SeqLM": TrineRecurrentForConditionalGeneration}

__all__ = ["TrineRecurrentForConditionalGeneration", "TrineRecurrentModel"]
