"""The pretraining heads of an encoder: masked tokens, and whether one sentence follows another."""

from typing import Unpack

import torch
from torch import nn
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from ...configuration.configuration_trine import TrineConfig
from ..losses import IGNORE_INDEX, batch_share, chunked_lm_loss, flatten_targets
from ..modeling_trine import TrineModel
from ..outputs import TrineMaskedLMOutput, TrinePreTrainingOutput, TrineSequenceClassifierOutput
from .base import INPUTS, HeadTransform, Prediction, TrineHead, TrineLabelledHead
from .classification_losses import class_loss
from .token_head import TokenHead


def require_encoder(config: TrineConfig, name: str) -> None:
    """Raises a `ValueError` for the config of a decoder, which cannot look at both sides of a mask."""
    if config.is_causal:
        raise ValueError(f"is_causal=True describes a decoder; {name} needs is_causal=False.")


class MaskedTokenHead(TokenHead):
    """How masked tokens are predicted, with or without a second head beside."""

    transform: HeadTransform
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.transform(hidden_states))

    def chunked_loss(
        self, hidden_states: torch.Tensor, targets: torch.Tensor, chunk_size: int, **kwargs
    ) -> torch.Tensor:
        """The loss, for which the vocabulary is looked at only where there is a target."""
        targets, hidden_states = flatten_targets(targets, hidden_states), hidden_states.flatten(0, -2)
        if not torch.compiler.is_compiling():  # there, a shape that depends on values would break the graph
            chosen = targets != IGNORE_INDEX
            hidden_states, targets = hidden_states[chosen], targets[chosen]
        return chunked_lm_loss(self.transform(hidden_states), self.lm_head, targets, chunk_size, **kwargs)


class TrineForMaskedLM(MaskedTokenHead, TrineLabelledHead[TrineMaskedLMOutput]):
    """An encoder that fills masked tokens in: logits (batch, length, vocabulary).

    `labels` are token ids, (batch, length), -100 where nothing is predicted. In training with labels, while
    `config.loss_chunk_size` is set, logits are computed when they are first read, as the loss looks at the vocabulary
    only where there is a label. `forward` also takes `label_smoothing`, the share of a target that is spread over the
    vocabulary.

    Args:
        config: The architecture; `is_causal` must be False.
    """

    output_class = TrineMaskedLMOutput

    def __init__(self, config: TrineConfig):
        require_encoder(config, type(self).__name__)
        super().__init__(config)
        self.model = TrineModel(config, add_pooling_layer=False)
        self.transform = HeadTransform(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def answer(self, inputs, labels, *args, **asked) -> TrineMaskedLMOutput:
        self.check_labels(labels)
        return super().answer(inputs, labels, *args, **asked)

    def predict(self, outputs, labels, inputs, **kwargs) -> Prediction:
        hidden_states, chunk_size = outputs.last_hidden_state, self.config.loss_chunk_size
        loss, logits = self.loss_and_logits(hidden_states, labels, labels, chunk_size, **kwargs)
        return loss, labels, {"logits": logits}


class TrineForPreTraining(MaskedTokenHead, TrineHead[TrinePreTrainingOutput]):
    """An encoder with both heads of BERT: masked tokens, and next-sentence prediction on the pooled first token.

    Source: Devlin et al. 2018, arXiv 1810.04805, section 3.1.

    Args:
        config: The architecture; `is_causal` must be False. There is a pooler whatever `add_pooling_layer` says.
    """

    output_class = TrinePreTrainingOutput

    def __init__(self, config: TrineConfig):
        require_encoder(config, type(self).__name__)
        super().__init__(config)
        self.model = TrineModel(config, add_pooling_layer=True)
        self.transform = HeadTransform(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)
        self.loss_type = "ForMaskedLM"
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
        next_sentence_label: torch.Tensor | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
    ) -> TrinePreTrainingOutput:
        """Computes both predictions, and the sum of the losses whose labels are given.

        Args:
            labels: Token ids, (batch, length), -100 where nothing is predicted.
            next_sentence_label: (sequences,): 0 if the second segment follows the first in its text, 1 if not.

        Returns:
            The names are BERT's. `prediction_logits` are the `logits` of `TrineForMaskedLM`.

        Raises:
            ValueError: Labels lie outside the vocabulary, next-sentence labels are not 0 or 1, or what the trunk
                raises.
        """
        self.check_labels(labels)
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        both = None if labels is None and next_sentence_label is None else (labels, next_sentence_label)
        return self.answer(dict(zip(INPUTS, inputs, strict=True)), both, output_router_logits, kwargs)

    def predict(self, outputs, labels, inputs, **kwargs) -> Prediction:
        tokens, sentences = labels or (None, None)
        hidden_states, chunk_size = outputs.last_hidden_state, self.config.loss_chunk_size
        loss, prediction_logits = self.loss_and_logits(hidden_states, tokens, tokens, chunk_size, **kwargs)
        relationship = self.seq_relationship(outputs.pooler_output)
        if sentences is not None:
            sentence_loss = class_loss(relationship, sentences, None, "next_sentence_label", "two classes")
            # The mean of this micro-batch, weighted as its masked tokens are.
            share, num_items_in_batch = 1.0, kwargs.get("num_items_in_batch")
            if tokens is not None and num_items_in_batch is not None:
                share = batch_share(tokens, num_items_in_batch)
            loss = sentence_loss if loss is None else loss + sentence_loss * share
        return loss, tokens, {"prediction_logits": prediction_logits, "seq_relationship_logits": relationship}


class TrineForNextSentencePrediction(TrineLabelledHead[TrineSequenceClassifierOutput]):
    """An encoder with the second of BERT's heads, whether the second segment follows the first: logits (sequences, 2).

    `labels` are (sequences,): 0 if it follows the first in its text, 1 if not. It reads the checkpoints of
    `TrineForPreTraining`, without the head for masked tokens.

    Args:
        config: The architecture; `is_causal` must be False. There is a pooler whatever `add_pooling_layer` says.
    """

    output_class = TrineSequenceClassifierOutput
    _keys_to_ignore_on_load_unexpected = [r"^transform\.", r"^lm_head\."]

    def __init__(self, config: TrineConfig):
        require_encoder(config, type(self).__name__)
        super().__init__(config)
        self.model = TrineModel(config, add_pooling_layer=True)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def predict(self, outputs, labels, inputs, num_items_in_batch=None, **kwargs) -> Prediction:
        logits, loss = self.seq_relationship(outputs.pooler_output), None
        if labels is not None:
            loss = class_loss(logits, labels, num_items_in_batch, "labels", "two classes")
        return loss, labels, {"logits": logits}


__all__ = ["TrineForMaskedLM", "TrineForNextSentencePrediction", "TrineForPreTraining"]
