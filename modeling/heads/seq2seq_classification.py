"""Classifiers of sequences, tokens and spans, on an encoder-decoder."""

from typing import Any

from torch import nn

from ...configuration.configuration_trine_seq2seq import TrineSeq2SeqConfig
from ..losses import shift_source
from ..modeling_trine_seq2seq import TrineSeq2SeqModel
from ..outputs import (
    TrineSeq2SeqQuestionAnsweringOutput,
    TrineSeq2SeqSequenceClassifierOutput,
    TrineTokenClassifierOutput,
)
from ..pooling import last_token, sequence_masks
from .base import SPAN, Output, Prediction, Target, TrineHead, make_forward, make_transform
from .classification_losses import class_loss, predict_span, sequence_loss
from .seq2seq import TrineSeq2SeqHead


SOURCE = ("input_ids", "attention_mask", "position_ids")
TARGET = ("decoder_input_ids", "decoder_attention_mask", "decoder_position_ids")
BOTH = (*SOURCE, *TARGET, "encoder_outputs", "inputs_embeds", "decoder_inputs_embeds")


class SourceReader(TrineSeq2SeqHead[Output]):
    """A head whose decoder reads the source, too, with the source's mask, unless it is given something else."""

    def __init__(self, config: TrineSeq2SeqConfig):
        super().__init__(config)
        self.model = TrineSeq2SeqModel(config)
        self.transform = make_transform(config.decoder)

    def read_source(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The decoder's inputs that are made from the source, by name."""
        raise NotImplementedError

    def answer(self, inputs, *args, **asked) -> Output:
        inputs = {**inputs, "use_cache": False}
        if inputs["decoder_input_ids"] is None and inputs["decoder_inputs_embeds"] is None:
            inputs |= self.read_source(inputs)
            if inputs["decoder_attention_mask"] is None:
                inputs["decoder_attention_mask"] = inputs["attention_mask"]
        return super().answer(inputs, *args, **asked)


class TrineSeq2SeqForSequenceClassification(SourceReader[TrineSeq2SeqSequenceClassifierOutput]):
    """Classes, many labels, or values of whole texts, read by both stacks; the decoder's last token answers.

    Logits are (batch, labels), and `labels` as `TrineForSequenceClassification` takes them. Without
    `decoder_input_ids` the decoder reads the source itself.

    Source: Lewis et al. 2019, BART, arXiv 1910.13461, section 3.1.

    Args:
        config: Both stacks, and `num_labels` or `id2label`.
    """

    output_class = TrineSeq2SeqSequenceClassifierOutput

    def __init__(self, config: TrineSeq2SeqConfig):
        super().__init__(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.decoder.hidden_size, config.num_labels)  # pyright: ignore[reportArgumentType] derived
        self.post_init()

    def read_source(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"decoder_input_ids": inputs["input_ids"], "decoder_inputs_embeds": inputs["inputs_embeds"]}

    def predict(self, outputs, inputs, labels: Target = None, **kwargs) -> Prediction:
        masks = sequence_masks(outputs.last_hidden_state, inputs["decoder_attention_mask"])
        pooled = last_token(outputs.last_hidden_state, masks)
        logits = self.classifier(self.dropout(self.transform(pooled)))
        loss = None if labels is None else sequence_loss(self.config, logits, labels, kwargs.get("num_items_in_batch"))
        return loss, labels, {"logits": logits}

    forward = make_forward(TrineSeq2SeqModel, (*BOTH, "labels", "output_router_logits"), predict, output_class)


class TrineSeq2SeqForTokenClassification(TrineSeq2SeqHead[TrineTokenClassifierOutput]):
    """A class for every source token, read by the encoder alone, as in T5: logits (batch, source length, labels).

    `labels` are (batch, source length) class indices, -100 where there is none. The decoder is not loaded. Where both
    stacks share their embeddings, a checkpoint has them under the decoder's name, here too.

    Args:
        config: Both stacks, and `num_labels` or `id2label`.
    """

    output_class = TrineTokenClassifierOutput
    records = {name: f"encoder_{name}" for name in TrineHead.records}

    def __init__(self, config: TrineSeq2SeqConfig):
        super().__init__(config)
        self.model = TrineSeq2SeqModel(config, add_decoder=False)
        self.transform = make_transform(config.encoder)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.encoder.hidden_size, config.num_labels)  # pyright: ignore[reportArgumentType] derived
        self.post_init()

    def predict(self, outputs, inputs, labels: Target = None, **kwargs) -> Prediction:
        logits = self.classifier(self.dropout(self.transform(outputs.last_hidden_state)))
        loss = None if labels is None else class_loss(logits, labels, kwargs.get("num_items_in_batch"))
        return loss, labels, {"logits": logits}

    names = (*SOURCE, "encoder_outputs", "inputs_embeds", "labels", "output_router_logits")
    forward = make_forward(TrineSeq2SeqModel, names, predict, output_class)


class TrineSeq2SeqForQuestionAnswering(SourceReader[TrineSeq2SeqQuestionAnsweringOutput]):
    """Where in a text the answer begins and ends, read by both stacks; the decoder answers, as in T5 and BART.

    `start_logits` and `end_logits` are (batch, target length). `start_positions` are (batch,), the index of the
    answer's first token, and `end_positions` that of its last; beyond the length, or -100, one is ignored. There is a
    loss if both are given. Without `decoder_input_ids` the decoder reads the source after
    `config.decoder_start_token_id`, without its last token, so that the target length is the source length.

    Args:
        config: Both stacks.
    """

    output_class = TrineSeq2SeqQuestionAnsweringOutput

    def __init__(self, config: TrineSeq2SeqConfig):
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.decoder.hidden_size, 2)
        self.post_init()

    def read_source(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs["input_ids"] is None:
            raise ValueError("One of decoder_input_ids, decoder_inputs_embeds and input_ids must be given.")
        return {"decoder_input_ids": shift_source(inputs["input_ids"], inputs["attention_mask"], self.config)}

    predict = predict_span
    forward = make_forward(TrineSeq2SeqModel, (*BOTH, *SPAN), predict, output_class)


__all__ = [
    "TrineSeq2SeqForQuestionAnswering",
    "TrineSeq2SeqForSequenceClassification",
    "TrineSeq2SeqForTokenClassification",
]
