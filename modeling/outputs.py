"""Outputs of the forward passes: those of transformers, with fields for sparse and simplicial layers."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
    MaskedLMOutput,
    MoeCausalLMOutputWithPast,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
    Seq2SeqQuestionAnsweringModelOutput,
    Seq2SeqSequenceClassifierOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.utils.generic import ModelOutput

from .heads.deferred_logits import DeferringOutput, deferring


CHECKED: set[type] = set()  # the classes of which transformers has seen an output


class TrineOutput(ModelOutput):
    """An output whose fields are set without a search for their names, which costs a small model a tenth of a step."""

    def __setattr__(self, name: str, value: Any) -> None:
        if value is not None and name in self.__dataclass_fields__:  # pyright: ignore[reportAttributeAccessIssue] its subclasses are dataclasses
            OrderedDict.__setitem__(self, name, value)
        object.__setattr__(self, name, value)

    def __post_init__(self) -> None:
        if len(self) < 2 or type(self) not in CHECKED:  # a dict or pairs perhaps, in the first field's place
            super().__post_init__()
            CHECKED.add(type(self))


@dataclass
class TrineModelOutput(TrineOutput, BaseModelOutputWithPoolingAndCrossAttentions):
    """Output of a trunk.

    `router_logits`: (batch * length, experts) for each sparse layer. `second_attentions`: weights of the second keys,
    (batch, heads, queries, second keys) for each simplicial layer.
    """

    router_logits: tuple[torch.Tensor, ...] | None = None
    second_attentions: tuple[torch.Tensor, ...] | None = None


@deferring("logits")
@dataclass
class TrineCausalLMOutput(DeferringOutput, TrineOutput, MoeCausalLMOutputWithPast):
    """Output of a decoder with the language-model head; `second_attentions` as in `TrineModelOutput`."""

    second_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineHeadOutput(TrineOutput):
    """Last fields of the outputs of heads; `aux_loss` is the load-balancing loss, without its coefficient."""

    aux_loss: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None
    second_attentions: tuple[torch.Tensor, ...] | None = None


@deferring("logits")
@dataclass
class TrineMaskedLMOutput(DeferringOutput, TrineHeadOutput, MaskedLMOutput):
    """Output of the masked-token head: `logits` (batch, length, vocabulary)."""


@dataclass
class BertPreTrainingOutput(ModelOutput):
    """`prediction_logits` (batch, length, vocabulary) and `seq_relationship_logits` (batch, 2), under BERT's names."""

    loss: torch.Tensor | None = None
    prediction_logits: torch.Tensor | None = None
    seq_relationship_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@deferring("prediction_logits")
@dataclass
class TrinePreTrainingOutput(DeferringOutput, TrineHeadOutput, BertPreTrainingOutput):
    """Output of both heads of BERT."""


@dataclass
class TrineSequenceClassifierOutput(TrineHeadOutput, SequenceClassifierOutputWithPast):
    """Output of a sequence classifier: `logits` (sequences, labels)."""


@dataclass
class TrineTokenClassifierOutput(TrineHeadOutput, TokenClassifierOutput):
    """Output of a token classifier: `logits` (batch, length, labels)."""


@dataclass
class TrineQuestionAnsweringOutput(TrineHeadOutput, QuestionAnsweringModelOutput):
    """Output of the span head: `start_logits` and `end_logits`, (batch, length) each."""


@dataclass
class TrineMultipleChoiceOutput(TrineHeadOutput, MultipleChoiceModelOutput):
    """Output of the multiple-choice head: `logits` (batch, choices)."""


@dataclass
class TrineImageClassifierOutput(TrineHeadOutput, ImageClassifierOutput):
    """Output of a classifier of images or sounds: `logits` (items, labels)."""


@dataclass
class TrineMaskedImageModelingOutput(TrineHeadOutput, MaskedImageModelingOutput):
    """Output of the head that paints hidden patches: `reconstruction` (images, channels, height, width)."""


@dataclass
class TrinePredictionOutput(ModelOutput):
    """The first fields of forecasts, named as those of transformers' PatchTST."""

    loss: torch.Tensor | None = None
    prediction_outputs: torch.Tensor | None = None
    quantile_predictions: torch.Tensor | None = None
    loc: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineTimeSeriesPredictionOutput(TrineHeadOutput, TrinePredictionOutput):
    """Output of the head that predicts series.

    `prediction_outputs` (batch, steps, channels), means or medians; `quantile_predictions` (batch, steps, channels,
    levels), with `config.loss="quantile"`; `loc` and `scale` (batch, 1, channels), by which windows were normalised.
    """


@dataclass
class TrineSeq2SeqModelOutput(TrineOutput, Seq2SeqModelOutput):
    """Output of both stacks; router logits and second attentions are named as transformers names attentions."""

    encoder_router_logits: tuple[torch.Tensor, ...] | None = None
    decoder_router_logits: tuple[torch.Tensor, ...] | None = None
    encoder_second_attentions: tuple[torch.Tensor, ...] | None = None
    decoder_second_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineSeq2SeqHeadOutput(TrineOutput):
    """Last fields of the outputs of heads on an encoder-decoder."""

    aux_loss: torch.Tensor | None = None
    encoder_router_logits: tuple[torch.Tensor, ...] | None = None
    decoder_router_logits: tuple[torch.Tensor, ...] | None = None
    encoder_second_attentions: tuple[torch.Tensor, ...] | None = None
    decoder_second_attentions: tuple[torch.Tensor, ...] | None = None


@deferring("logits")
@dataclass
class TrineSeq2SeqLMOutput(DeferringOutput, TrineSeq2SeqHeadOutput, Seq2SeqLMOutput):
    """Output of an encoder-decoder with the language-model head: `logits` (batch, target length, vocabulary)."""


@deferring("logits")
@dataclass
class TrineRecurrentLMOutput(DeferringOutput, TrineOutput, Seq2SeqLMOutput):
    """Output of the recurrent language model: `logits` (batch, target length, vocabulary)."""


@dataclass
class TrineSeq2SeqSequenceClassifierOutput(TrineSeq2SeqHeadOutput, Seq2SeqSequenceClassifierOutput):
    """Output of a sequence classifier on an encoder-decoder: `logits` (batch, labels)."""


@dataclass
class TrineSeq2SeqQuestionAnsweringOutput(TrineSeq2SeqHeadOutput, Seq2SeqQuestionAnsweringModelOutput):
    """Output of the span head on an encoder-decoder: `start_logits` and `end_logits`, (batch, target length) each."""
