"""What the forward passes return: the library's outputs, with router logits and the load-balancing loss."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
    Seq2SeqSequenceClassifierOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.utils.generic import ModelOutput


@dataclass
class TrineModelOutput(BaseModelOutputWithPoolingAndCrossAttentions):
    """Output of a trunk. `router_logits`: (batch * length, experts) for each sparse layer."""

    router_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineMaskedLMOutput(MaskedLMOutput):
    """`aux_loss` is the load-balancing loss, without its coefficient."""

    aux_loss: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrinePreTrainingOutput(ModelOutput):
    """`prediction_logits` (batch, length, vocabulary) and `seq_relationship_logits` (batch, 2), under BERT's names."""

    loss: torch.Tensor | None = None
    prediction_logits: torch.Tensor | None = None
    seq_relationship_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    aux_loss: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineSequenceClassifierOutput(SequenceClassifierOutputWithPast):
    aux_loss: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineTokenClassifierOutput(TokenClassifierOutput):
    aux_loss: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineQuestionAnsweringOutput(QuestionAnsweringModelOutput):
    aux_loss: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineMultipleChoiceOutput(MultipleChoiceModelOutput):
    aux_loss: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineSeq2SeqModelOutput(Seq2SeqModelOutput):
    """Router logits of both stacks, under the library's names."""

    encoder_router_logits: tuple[torch.Tensor, ...] | None = None
    decoder_router_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineSeq2SeqLMOutput(Seq2SeqLMOutput):
    aux_loss: torch.Tensor | None = None
    encoder_router_logits: tuple[torch.Tensor, ...] | None = None
    decoder_router_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineSeq2SeqSequenceClassifierOutput(Seq2SeqSequenceClassifierOutput):
    aux_loss: torch.Tensor | None = None
    encoder_router_logits: tuple[torch.Tensor, ...] | None = None
    decoder_router_logits: tuple[torch.Tensor, ...] | None = None
