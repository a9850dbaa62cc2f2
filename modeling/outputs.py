"""What the forward passes return: transformers' outputs, and what sparse and simplicial layers add."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
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


@dataclass
class TrineModelOutput(BaseModelOutputWithPoolingAndCrossAttentions):
    """Output of a trunk.

    `router_logits`: (batch * length, experts) for each sparse layer. `second_attentions`: weights of the second keys,
    (batch, heads, queries, second keys) for each simplicial layer.
    """

    router_logits: tuple[torch.Tensor, ...] | None = None
    second_attentions: tuple[torch.Tensor, ...] | None = None


@deferring("logits")
@dataclass
class TrineCausalLMOutput(DeferringOutput, MoeCausalLMOutputWithPast):
    second_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineHeadOutput(ModelOutput):
    """What the outputs of all other heads end with; `aux_loss` is the load-balancing loss, without its coefficient."""

    aux_loss: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None
    second_attentions: tuple[torch.Tensor, ...] | None = None


@deferring("logits")
@dataclass
class TrineMaskedLMOutput(DeferringOutput, TrineHeadOutput, MaskedLMOutput):
    pass


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
    pass


@dataclass
class TrineSequenceClassifierOutput(TrineHeadOutput, SequenceClassifierOutputWithPast):
    pass


@dataclass
class TrineTokenClassifierOutput(TrineHeadOutput, TokenClassifierOutput):
    pass


@dataclass
class TrineQuestionAnsweringOutput(TrineHeadOutput, QuestionAnsweringModelOutput):
    pass


@dataclass
class TrineMultipleChoiceOutput(TrineHeadOutput, MultipleChoiceModelOutput):
    pass


@dataclass
class TrineSeq2SeqModelOutput(Seq2SeqModelOutput):
    """Router logits of both stacks, under transformers' names, and their second attentions, named likewise."""

    encoder_router_logits: tuple[torch.Tensor, ...] | None = None
    decoder_router_logits: tuple[torch.Tensor, ...] | None = None
    encoder_second_attentions: tuple[torch.Tensor, ...] | None = None
    decoder_second_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineSeq2SeqHeadOutput(ModelOutput):
    """What the outputs of the heads end with."""

    aux_loss: torch.Tensor | None = None
    encoder_router_logits: tuple[torch.Tensor, ...] | None = None
    decoder_router_logits: tuple[torch.Tensor, ...] | None = None
    encoder_second_attentions: tuple[torch.Tensor, ...] | None = None
    decoder_second_attentions: tuple[torch.Tensor, ...] | None = None


@deferring("logits")
@dataclass
class TrineSeq2SeqLMOutput(DeferringOutput, TrineSeq2SeqHeadOutput, Seq2SeqLMOutput):
    pass


@deferring("logits")
@dataclass
class TrineRecurrentLMOutput(DeferringOutput, Seq2SeqLMOutput):
    pass


@dataclass
class TrineSeq2SeqSequenceClassifierOutput(TrineSeq2SeqHeadOutput, Seq2SeqSequenceClassifierOutput):
    pass


@dataclass
class TrineSeq2SeqQuestionAnsweringOutput(TrineSeq2SeqHeadOutput, Seq2SeqQuestionAnsweringModelOutput):
    pass
