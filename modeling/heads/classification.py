"""Classifiers of sequences, tokens, spans and choices, on an encoder or a decoder."""

from typing import Any

import torch
from torch import nn

from ...configuration.configuration_trine import TrineConfig
from ..checks.paged_serving import check_vllm_classifier
from ..modeling_trine import TrineModel
from ..outputs import (
    TrineMultipleChoiceOutput,
    TrineQuestionAnsweringOutput,
    TrineSequenceClassifierOutput,
    TrineTokenClassifierOutput,
)
from ..pooling import POOLINGS, sequence_masks, without_padding
from .base import LABELLED, SPAN, TEXT, Output, Prediction, Target, TrineHead, make_forward, make_transform
from .classification_losses import class_loss, predict_span, sequence_loss


class TrineClassifier(TrineHead[Output]):
    """A linear layer on the state of each token, or on one vector a sequence.

    `config.classifier_pooling` chooses that vector: `cls` goes through the pooler if `config.add_pooling_layer`, as in
    BERT. Either passes a transform first if `config.classifier_transform`, as in ModernBERT.
    """

    def __init__(self, config: TrineConfig, num_outputs: int, is_pooled: bool):
        super().__init__(config)
        has_pooler = is_pooled and config.add_pooling_layer and config.classifier_pooling == "cls"
        self.model = TrineModel(config, add_pooling_layer=has_pooler)
        self.transform = make_transform(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, num_outputs)
        self.post_init()

    def classify(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Maps (..., hidden) to (..., outputs)."""
        return self.classifier(self.dropout(self.transform(hidden_states)))

    def classify_sequences(self, outputs: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Maps the trunk's outputs to (sequences, outputs)."""
        pooled = outputs.pooler_output
        if pooled is None:
            mask = inputs["attention_mask"]
            masks = sequence_masks(outputs.last_hidden_state, mask, inputs["position_ids"])
            if mask is None:
                masks = without_padding(masks, inputs["input_ids"], self.config)
            pooled = POOLINGS[self.config.classifier_pooling](outputs.last_hidden_state, masks)
        return self.classify(pooled)


class TrineForSequenceClassification(TrineClassifier[TrineSequenceClassifierOutput]):
    """Classes, many labels, or values of whole sequences: logits (sequences, labels).

    `labels` are (sequences,) class indices; floats (sequences, labels) if each label is a yes or no; floats
    (sequences,) or (sequences, values) for regression. `config.problem_type` says which; if it is None, one label is
    regression, floats are many labels, and the config remembers it, as in transformers. The attention mask tells which
    token is the first or the last. Without one every token is real; but the pooling `last` takes the last token that
    is not `config.pad_token_id`, as transformers does.

    Args:
        config: The architecture, with `num_labels` or `id2label`, and `classifier_pooling`.
    """

    output_class = TrineSequenceClassifierOutput

    def __init__(self, config: TrineConfig):
        check_vllm_classifier(config)
        super().__init__(config, config.num_labels, is_pooled=True)  # pyright: ignore[reportArgumentType] derived

    def predict(self, outputs, inputs, labels: Target = None, **kwargs) -> Prediction:
        logits = self.classify_sequences(outputs, inputs)
        loss = None if labels is None else sequence_loss(self.config, logits, labels, kwargs.get("num_items_in_batch"))
        return loss, labels, {"logits": logits, "past_key_values": outputs.past_key_values}

    forward = make_forward(TrineModel, LABELLED, predict, output_class)


class TrineForMultipleChoice(TrineClassifier[TrineMultipleChoiceOutput]):
    """Which of several continuations fits: each is a sequence of its own with one score; logits (batch, choices).

    `input_ids` are (batch, choices, length), and so are the mask, the segments and the positions; embeddings have one
    dimension more. `labels` are (batch,), the index of the right choice.
    """

    output_class = TrineMultipleChoiceOutput

    def __init__(self, config: TrineConfig):
        super().__init__(config, num_outputs=1, is_pooled=True)

    def answer(self, inputs, *args, **asked) -> TrineMultipleChoiceOutput:
        first = inputs["inputs_embeds"] if inputs["input_ids"] is None else inputs["input_ids"]
        choices = 1 if first is None else first.shape[1]  # the trunk tells if both are missing
        flat = {name: None if value is None else value.flatten(0, 1) for name, value in inputs.items()}
        return super().answer(flat, *args, **asked, choices=choices)

    def predict(self, outputs, inputs, labels: Target = None, *, choices=1, **kwargs) -> Prediction:
        logits, loss = self.classify_sequences(outputs, inputs).view(-1, choices), None
        if labels is not None:
            loss = class_loss(logits, labels, kwargs.get("num_items_in_batch"), "labels", f"{choices} choices")
        return loss, labels, {"logits": logits}

    forward = make_forward(TrineModel, LABELLED, predict, output_class)


class TrineForTokenClassification(TrineClassifier[TrineTokenClassifierOutput]):
    """A class for every token, as in named-entity recognition: logits (batch, length, labels).

    `labels` are (batch, length) class indices, -100 where there is none.

    Args:
        config: The architecture, with `num_labels` or `id2label`.
    """

    output_class = TrineTokenClassifierOutput

    def __init__(self, config: TrineConfig):
        super().__init__(config, config.num_labels, is_pooled=False)  # pyright: ignore[reportArgumentType] derived

    def predict(self, outputs, inputs, labels: Target = None, **kwargs) -> Prediction:
        logits = self.classify(outputs.last_hidden_state)
        loss = None if labels is None else class_loss(logits, labels, kwargs.get("num_items_in_batch"))
        return loss, labels, {"logits": logits}

    forward = make_forward(TrineModel, LABELLED, predict, output_class)


class TrineForQuestionAnswering(TrineHead[TrineQuestionAnsweringOutput]):
    """Where in a text the answer begins and ends: `start_logits` and `end_logits`, (batch, length) each.

    `start_positions` are (batch,), the index of the answer's first token, and `end_positions` that of its last; beyond
    the length, or -100, one is ignored. There is a loss if both are given.
    """

    output_class = TrineQuestionAnsweringOutput

    def __init__(self, config: TrineConfig):
        super().__init__(config)
        self.model = TrineModel(config, add_pooling_layer=False)
        self.transform = make_transform(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    predict = predict_span
    forward = make_forward(TrineModel, (*TEXT, *SPAN), predict, output_class)


__all__ = [
    "TrineForMultipleChoice",
    "TrineForQuestionAnswering",
    "TrineForSequenceClassification",
    "TrineForTokenClassification",
]
