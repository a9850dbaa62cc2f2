"""Classifiers of sequences, tokens, spans and choices, on an encoder or a decoder."""

from typing import Unpack

import torch
from torch import nn
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from ...configuration.configuration_trine import TrineConfig
from ..checks.paged_serving import check_vllm_classifier
from ..modeling_trine import TrineModel
from ..outputs import (
    TrineModelOutput,
    TrineMultipleChoiceOutput,
    TrineQuestionAnsweringOutput,
    TrineSequenceClassifierOutput,
    TrineTokenClassifierOutput,
)
from ..pooling import pool
from .base import TrineHead
from .classification_losses import class_loss, sequence_loss, span_loss
from .transform import make_transform


def reads_pooler(config: TrineConfig) -> bool:
    """Whether a classifier of sequences sees them through the pooler."""
    return config.add_pooling_layer and config.classifier_pooling == "cls"


class TrinePooledHead(TrineHead):
    """A head on one vector a sequence, which `config.classifier_pooling` chooses.

    `cls` goes through the pooler if `config.add_pooling_layer`, as in BERT, and any through a transform if
    `config.classifier_transform`, as in ModernBERT.
    """

    def __init__(self, config: TrineConfig, num_outputs: int):
        super().__init__(config)
        self.model = TrineModel(config, add_pooling_layer=reads_pooler(config))
        self.transform = make_transform(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, num_outputs)
        self.post_init()

    def classify(
        self, outputs: TrineModelOutput, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Maps the trunk's outputs to (sequences, outputs)."""
        pooled, hidden_states = outputs.pooler_output, outputs.last_hidden_state
        if pooled is None:
            pooled = pool(hidden_states, self.config.classifier_pooling, attention_mask, position_ids)  # pyright: ignore[reportArgumentType] a trunk always has hidden states
        return self.classifier(self.dropout(self.transform(pooled)))


class TrineForSequenceClassification(TrinePooledHead):
    """Classes, many labels, or values of whole sequences.

    The attention mask tells which token is the first or the last; without one every token is real.

    Args:
        config: The architecture, with `num_labels` or `id2label`, and `classifier_pooling`.
    """

    def __init__(self, config: TrineConfig):
        check_vllm_classifier(config)
        super().__init__(config, config.num_labels)  # pyright: ignore[reportArgumentType] derived

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in the library
    ) -> TrineSequenceClassifierOutput:
        """Computes logits (sequences, labels), and the loss if there are labels.

        Args:
            labels: (sequences,) class indices; floats (sequences, labels) if each label is a yes or no; floats
                (sequences,) or (sequences, values) for regression. `config.problem_type` says which; if it is None,
                one label is regression, floats are many labels, and the config remembers it, as in the library.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.read(inputs, output_router_logits, labels is not None, **kwargs)
        logits, loss = self.classify(outputs, attention_mask, position_ids), None
        num_items_in_batch = kwargs.get("num_items_in_batch")
        if labels is not None:
            loss = sequence_loss(self.config, logits, labels, num_items_in_batch)
        loss, aux_loss = self.add_router_losses(loss, outputs, attention_mask, labels, num_items_in_batch)
        return TrineSequenceClassifierOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            aux_loss=aux_loss,
            **self.recorded(outputs, output_router_logits),
        )


class TrineForMultipleChoice(TrinePooledHead):
    """Which of several continuations fits: each is a sequence of its own, and gets one score."""

    def __init__(self, config: TrineConfig):
        super().__init__(config, num_outputs=1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in the library
    ) -> TrineMultipleChoiceOutput:
        """Computes logits (batch, choices), and the loss if there are labels.

        Args:
            input_ids: (batch, choices, length), and so the mask, the segments and the positions; embeddings have one
                dimension more.
            labels: (batch,) index of the right choice.
        """
        choices = (input_ids if input_ids is not None else inputs_embeds).shape[1]  # pyright: ignore[reportOptionalMemberAccess] the trunk tells if both are missing
        attention_mask, position_ids = flatten_choices(attention_mask), flatten_choices(position_ids)
        inputs = (
            flatten_choices(input_ids),
            attention_mask,
            flatten_choices(token_type_ids),
            position_ids,
            flatten_choices(inputs_embeds),
        )
        outputs = self.read(inputs, output_router_logits, labels is not None, **kwargs)
        logits, loss = self.classify(outputs, attention_mask, position_ids).view(-1, choices), None
        num_items_in_batch = kwargs.get("num_items_in_batch")
        if labels is not None:
            loss = class_loss(logits, labels, num_items_in_batch, "labels", f"{choices} choices")
        loss, aux_loss = self.add_router_losses(loss, outputs, attention_mask, labels, num_items_in_batch)
        return TrineMultipleChoiceOutput(
            loss=loss, logits=logits, aux_loss=aux_loss, **self.recorded(outputs, output_router_logits)
        )


def flatten_choices(inputs: torch.Tensor | None) -> torch.Tensor | None:
    """(batch, choices, ...) as (batch * choices, ...)."""
    return None if inputs is None else inputs.flatten(0, 1)


class TrineForTokenClassification(TrineHead):
    """A class for every token, as in named-entity recognition.

    Args:
        config: The architecture, with `num_labels` or `id2label`.
    """

    def __init__(self, config: TrineConfig):
        super().__init__(config)
        self.model = TrineModel(config, add_pooling_layer=False)
        self.transform = make_transform(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)  # pyright: ignore[reportArgumentType] derived
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in the library
    ) -> TrineTokenClassifierOutput:
        """Computes logits (batch, length, labels), and the loss if there are labels.

        Args:
            labels: (batch, length) class indices, -100 where there is none.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.read(inputs, output_router_logits, labels is not None, **kwargs)
        logits, loss = self.classifier(self.dropout(self.transform(outputs.last_hidden_state))), None
        num_items_in_batch = kwargs.get("num_items_in_batch")
        if labels is not None:
            loss = class_loss(logits, labels, num_items_in_batch)
        loss, aux_loss = self.add_router_losses(loss, outputs, attention_mask, labels, num_items_in_batch)
        return TrineTokenClassifierOutput(
            loss=loss, logits=logits, aux_loss=aux_loss, **self.recorded(outputs, output_router_logits)
        )


class TrineForQuestionAnswering(TrineHead):
    """Where in a text the answer begins and ends."""

    def __init__(self, config: TrineConfig):
        super().__init__(config)
        self.model = TrineModel(config, add_pooling_layer=False)
        self.transform = make_transform(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in the library
    ) -> TrineQuestionAnsweringOutput:
        """Computes `start_logits` and `end_logits`, (batch, length) each, and the loss if both positions are given.

        Args:
            start_positions: (batch,) index of the answer's first token; beyond the length, or -100, it is ignored.
            end_positions: (batch,) index of its last token, likewise.
        """
        has_labels = start_positions is not None and end_positions is not None
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.read(inputs, output_router_logits, has_labels, **kwargs)
        start_logits, end_logits = self.qa_outputs(self.transform(outputs.last_hidden_state)).unbind(dim=-1)
        loss, starts, num_items_in_batch = None, None, kwargs.get("num_items_in_batch")
        if start_positions is not None and end_positions is not None:
            loss, starts = span_loss(start_logits, end_logits, start_positions, end_positions, num_items_in_batch)
        loss, aux_loss = self.add_router_losses(loss, outputs, attention_mask, starts, num_items_in_batch)
        return TrineQuestionAnsweringOutput(
            loss=loss,
            start_logits=start_logits.contiguous(),
            end_logits=end_logits.contiguous(),
            aux_loss=aux_loss,
            **self.recorded(outputs, output_router_logits),
        )


__all__ = [
    "TrineForMultipleChoice",
    "TrineForQuestionAnswering",
    "TrineForSequenceClassification",
    "TrineForTokenClassification",
]
