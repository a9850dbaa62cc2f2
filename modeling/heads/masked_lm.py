"""The pretraining heads of an encoder: masked tokens, and whether one sentence follows another."""

from typing import Any

import torch
from torch import nn

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig
from ..losses import IGNORE_INDEX, batch_share, chunked_lm_loss, flatten_targets
from ..modeling_trine import TrineModel
from ..outputs import TrineMaskedLMOutput, TrinePreTrainingOutput, TrineSequenceClassifierOutput
from .base import LABELLED, TEXT, HeadTransform, Output, Prediction, Target, TrineHead, make_forward
from .classification_losses import class_loss
from .token_head import TokenHead


def require_encoder(config: TrineConfig, name: str) -> None:
    """Raises a `ValueError` for the config of a decoder, which cannot look at both sides of a mask."""
    if config.is_causal:
        raise ValueError(f"is_causal=True describes a decoder; {name} needs is_causal=False.")


def own_states(hidden_states: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
    """The states (batch, length, hidden) themselves, each of which predicts its own token."""
    return hidden_states


def states_before(hidden_states: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
    """The state before each token, (batch, length, hidden); for the first token of a text, which has none, its own.

    Source: masked next token prediction of BehnamGhader et al. 2024, LLM2Vec, arXiv 2404.05961, section 2.2.

    Args:
        inputs: What the trunk read: a padding mask, or positions that start again, tell where texts begin.
    """
    mask, positions = inputs["attention_mask"], inputs["position_ids"]
    is_first = torch.arange(hidden_states.shape[1], device=hidden_states.device)[None] == 0
    if mask is not None and mask.ndim == 2:
        is_first = (mask != 0) & (mask.cumsum(dim=-1) == 1)
    elif mask is None and positions is not None:
        is_first = is_first | (positions.diff(dim=-1, prepend=positions[:, :1]) != 1)
    return torch.where(is_first.to(hidden_states.device)[..., None], hidden_states, hidden_states.roll(1, dims=1))


TRANSFORMS = Choices("masked_lm_head", {"transform": HeadTransform, "next_token": nn.Identity})
PREDICTED_FROM = Choices("masked_lm_head", {"transform": own_states, "next_token": states_before})


class MaskedTokenHead(TrineHead[Output], TokenHead):
    """How masked tokens are predicted, with or without a second head beside.

    Args:
        config: The architecture; `is_causal` must be False.
        has_pooler: Whether the trunk pools the first token.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: TrineConfig, has_pooler: bool = False):
        require_encoder(config, type(self).__name__)
        super().__init__(config)
        self.model = TrineModel(config, add_pooling_layer=has_pooler)
        self.transform = TRANSFORMS[config.masked_lm_head](config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)

    def answer(self, inputs, targets, *args, **asked) -> Output:
        self.check_labels(targets["labels"])
        return super().answer(inputs, targets, *args, **asked)

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


class TrineForMaskedLM(MaskedTokenHead[TrineMaskedLMOutput]):
    """An encoder that fills masked tokens in: logits (batch, length, vocabulary).

    `labels` are token ids, (batch, length), -100 where nothing is predicted. In training with labels, while
    `config.loss_chunk_size` is set, logits are computed when they are first read, as the loss looks at the vocabulary
    only where there is a label. `forward` also takes `label_smoothing`, the share of a target that is spread over the
    vocabulary. With `config.masked_lm_head="next_token"` the state before a token predicts it: the first token of a
    text should be one that is never masked.

    Args:
        config: The architecture; `is_causal` must be False.
    """

    output_class = TrineMaskedLMOutput

    def __init__(self, config: TrineConfig):
        super().__init__(config)
        self.post_init()

    def predict(self, outputs, inputs, labels: Target = None, **kwargs) -> Prediction:
        hidden_states = PREDICTED_FROM[self.config.masked_lm_head](outputs.last_hidden_state, inputs)
        chunk_size = self.config.loss_chunk_size
        loss, logits = self.loss_and_logits(hidden_states, labels, labels, chunk_size, **kwargs)
        return loss, labels, {"logits": logits}

    forward = make_forward(TrineModel, LABELLED, predict, output_class)


class TrineForPreTraining(MaskedTokenHead[TrinePreTrainingOutput]):
    """An encoder with both heads of BERT: masked tokens, and next-sentence prediction on the pooled first token.

    `labels` are token ids, (batch, length), -100 where nothing is predicted; `next_sentence_label`, (sequences,), is 0
    if the second segment follows the first in its text, 1 if not. The loss is the sum of those whose labels are given.
    The names of the outputs are BERT's; `prediction_logits` are the `logits` of `TrineForMaskedLM`.

    Source: Devlin et al. 2018, arXiv 1810.04805, section 3.1.

    Args:
        config: The architecture; `is_causal` must be False. There is a pooler whatever `add_pooling_layer` says.
    """

    output_class = TrinePreTrainingOutput

    def __init__(self, config: TrineConfig):
        super().__init__(config, has_pooler=True)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)
        self.loss_type = "ForMaskedLM"
        self.post_init()

    def predict(
        self, outputs, inputs, labels: Target = None, next_sentence_label: Target = None, **kwargs
    ) -> Prediction:
        hidden_states = PREDICTED_FROM[self.config.masked_lm_head](outputs.last_hidden_state, inputs)
        chunk_size = self.config.loss_chunk_size
        loss, prediction_logits = self.loss_and_logits(hidden_states, labels, labels, chunk_size, **kwargs)
        relationship = self.seq_relationship(outputs.pooler_output)
        if next_sentence_label is not None:
            sentence_loss = class_loss(relationship, next_sentence_label, None, "next_sentence_label", "two classes")
            # The mean of this micro-batch, weighted as its masked tokens are.
            share, num_items_in_batch = 1.0, kwargs.get("num_items_in_batch")
            if labels is not None and num_items_in_batch is not None:
                share = batch_share(labels, kwargs.get("num_items_in_batch"))
            loss = sentence_loss if loss is None else loss + sentence_loss * share
        return loss, labels, {"prediction_logits": prediction_logits, "seq_relationship_logits": relationship}

    names = (*TEXT, "labels", "next_sentence_label", "output_router_logits")
    forward = make_forward(TrineModel, names, predict, output_class)


class TrineForNextSentencePrediction(TrineHead[TrineSequenceClassifierOutput]):
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

    def predict(self, outputs, inputs, labels: Target = None, **kwargs) -> Prediction:
        logits, loss = self.seq_relationship(outputs.pooler_output), None
        if labels is not None:
            loss = class_loss(logits, labels, kwargs.get("num_items_in_batch"), "labels", "two classes")
        return loss, labels, {"logits": logits}

    forward = make_forward(TrineModel, LABELLED, predict, output_class)


__all__ = ["TrineForMaskedLM", "TrineForNextSentencePrediction", "TrineForPreTraining"]
