"""Classifiers of sequences, tokens and spans, on an encoder-decoder."""

from typing import Any, Unpack

import torch
from torch import nn
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from ...configuration.configuration_trine_seq2seq import TrineSeq2SeqConfig
from ..losses import shift_source
from ..modeling_trine_seq2seq import TrineSeq2SeqModel
from ..outputs import (
    TrineSeq2SeqQuestionAnsweringOutput,
    TrineSeq2SeqSequenceClassifierOutput,
    TrineTokenClassifierOutput,
)
from ..pooling import last_token, sequence_masks
from .base import Prediction, TrineHead, make_transform
from .classification_losses import class_loss, predict_span, sequence_loss
from .seq2seq import BOTH_SIDES, TrineSeq2SeqHead


class TrineSeq2SeqForSequenceClassification(TrineSeq2SeqHead[TrineSeq2SeqSequenceClassifierOutput]):
    """Classes, many labels, or values of whole texts, read by both stacks; the decoder's last token answers.

    Source: Lewis et al. 2019, BART, arXiv 1910.13461, section 3.1.

    Args:
        config: Both stacks, and `num_labels` or `id2label`.
    """

    output_class = TrineSeq2SeqSequenceClassifierOutput

    def __init__(self, config: TrineSeq2SeqConfig):
        super().__init__(config)
        self.model = TrineSeq2SeqModel(config)
        self.transform = make_transform(config.decoder)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.decoder.hidden_size, config.num_labels)  # pyright: ignore[reportArgumentType] derived
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
    ) -> TrineSeq2SeqSequenceClassifierOutput:
        """Computes logits (batch, labels), and the loss if there are labels.

        Args:
            decoder_input_ids: Default: the source itself, with the source's mask.
            labels: As `TrineForSequenceClassification` takes them.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids, decoder_inputs_embeds = input_ids, inputs_embeds
            decoder_attention_mask = attention_mask if decoder_attention_mask is None else decoder_attention_mask
        sides = (
            *(input_ids, attention_mask, position_ids),
            *(decoder_input_ids, decoder_attention_mask, decoder_position_ids),
            *(encoder_outputs, inputs_embeds, decoder_inputs_embeds),
        )
        inputs = {**dict(zip(BOTH_SIDES, sides, strict=True)), "use_cache": False}
        return self.answer(inputs, labels, output_router_logits, kwargs)

    def predict(self, outputs, labels, inputs, num_items_in_batch=None, **kwargs) -> Prediction:
        masks = sequence_masks(outputs.last_hidden_state, inputs["decoder_attention_mask"])
        pooled = last_token(outputs.last_hidden_state, masks)
        logits = self.classifier(self.dropout(self.transform(pooled)))
        loss = None if labels is None else sequence_loss(self.config, logits, labels, num_items_in_batch)
        return loss, labels, {"logits": logits}


class TrineSeq2SeqForTokenClassification(TrineSeq2SeqHead[TrineTokenClassifierOutput]):
    """A class for every source token, read by the encoder alone, as in T5. The decoder is not loaded.

    Where both stacks share their embeddings, a checkpoint has them under the decoder's name, here too.

    Args:
        config: Both stacks, and `num_labels` or `id2label`.
    """

    output_class = TrineTokenClassifierOutput
    records = {name: f"encoder_{name}" for name in TrineHead.records}
    _keys_to_ignore_on_load_unexpected = [r"decoder\."]

    def __init__(self, config: TrineSeq2SeqConfig):
        super().__init__(config)
        self.model = TrineSeq2SeqModel(config, add_decoder=False)
        self.transform = make_transform(config.encoder)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.encoder.hidden_size, config.num_labels)  # pyright: ignore[reportArgumentType] derived
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
    ) -> TrineTokenClassifierOutput:
        """Computes logits (batch, source length, labels), and the loss if there are labels.

        Args:
            labels: (batch, source length) class indices, -100 where there is none.

        Raises:
            ValueError: There is something to decode, or what the encoder raises.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "encoder_outputs": encoder_outputs,
            "inputs_embeds": inputs_embeds,
        }
        return self.answer(inputs, labels, output_router_logits, kwargs)

    def predict(self, outputs, labels, inputs, num_items_in_batch=None, **kwargs) -> Prediction:
        logits = self.classifier(self.dropout(self.transform(outputs.last_hidden_state)))
        loss = None if labels is None else class_loss(logits, labels, num_items_in_batch)
        return loss, labels, {"logits": logits}


class TrineSeq2SeqForQuestionAnswering(TrineSeq2SeqHead[TrineSeq2SeqQuestionAnsweringOutput]):
    """Where in a text the answer begins and ends, read by both stacks; the decoder answers, as in T5 and BART.

    Args:
        config: Both stacks.
    """

    output_class = TrineSeq2SeqQuestionAnsweringOutput

    def __init__(self, config: TrineSeq2SeqConfig):
        super().__init__(config)
        self.model = TrineSeq2SeqModel(config)
        self.transform = make_transform(config.decoder)
        self.qa_outputs = nn.Linear(config.decoder.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
    ) -> TrineSeq2SeqQuestionAnsweringOutput:
        """Computes `start_logits` and `end_logits`, (batch, target length) each, and the loss if there are positions.

        Args:
            decoder_input_ids: (batch, target length). Default: the source after `config.decoder_start_token_id`,
                without its last token, and with the source's mask, so that the target length is the source length.
            start_positions: (batch,) index of the answer's first token; beyond the length, or -100, it is ignored.
            end_positions: (batch,) index of its last token, likewise.

        Raises:
            ValueError: Nothing is to be decoded, a position is negative, or what the stacks raise.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise ValueError("One of decoder_input_ids, decoder_inputs_embeds and input_ids must be given.")
            decoder_input_ids = shift_source(input_ids, attention_mask, self.config)
            decoder_attention_mask = attention_mask if decoder_attention_mask is None else decoder_attention_mask
        sides = (
            *(input_ids, attention_mask, position_ids),
            *(decoder_input_ids, decoder_attention_mask, decoder_position_ids),
            *(encoder_outputs, inputs_embeds, decoder_inputs_embeds),
        )
        inputs = {**dict(zip(BOTH_SIDES, sides, strict=True)), "use_cache": False}
        span = None if start_positions is None or end_positions is None else (start_positions, end_positions)
        return self.answer(inputs, span, output_router_logits, kwargs)

    def predict(self, outputs, labels, inputs, num_items_in_batch=None, **kwargs) -> Prediction:
        return predict_span(self.qa_outputs(self.transform(outputs.last_hidden_state)), labels, num_items_in_batch)


__all__ = [
    "TrineSeq2SeqForQuestionAnswering",
    "TrineSeq2SeqForSequenceClassification",
    "TrineSeq2SeqForTokenClassification",
]
