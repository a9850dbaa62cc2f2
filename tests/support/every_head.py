"""A small model of every head, and a batch with labels for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from support import recurrent
from support.tiny import SIZES, SPARSE, random_ids, tiny_config

from trine import (
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineForMultipleChoice,
    TrineForPreTraining,
    TrineForQuestionAnswering,
    TrineForSequenceClassification,
    TrineForTokenClassification,
    TrineSeq2SeqConfig,
    TrineSeq2SeqForQuestionAnswering,
    TrineSeq2SeqForSequenceClassification,
    TrineSeq2SeqForTokenClassification,
)


@dataclass(frozen=True)
class HeadCase:
    """One head.

    Args:
        make: Makes the model, from fields of its config.
        labels: The labels of a batch of three, by name.
        inputs: What the model reads.
        limit: Number of classes of each label.
        predicts_tokens: Whether the labels are tokens, so that the loss may go by chunks.
    """

    make: Callable[..., Any]
    labels: dict[str, torch.Tensor]
    inputs: dict[str, torch.Tensor]
    limit: int
    predicts_tokens: bool = True

    def batch(self) -> dict[str, torch.Tensor]:
        return {**self.inputs, **{name: labels.clone() for name, labels in self.labels.items()}}

    def empty_batch(self) -> dict[str, torch.Tensor]:
        return self.batch() | {name: torch.full_like(labels, -100) for name, labels in self.labels.items()}


def encoder(head: type, **constants) -> Callable[..., Any]:
    return lambda **fields: head(tiny_config(is_causal=False, **constants, **fields))


def seq2seq(head: type) -> Callable[..., Any]:
    def make(**fields):
        stack = {**SIZES, **TOKENS, **fields}
        return head(TrineSeq2SeqConfig(encoder=stack, decoder=stack, num_labels=3))

    return make


TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IDS = {"input_ids": random_ids(3, 6)}
TARGETS = {"labels": random_ids(3, 6, seed=1).masked_fill(torch.eye(3, 6) == 1, -100)}
CLASSES = {"labels": torch.tensor([2, 0, 1])}
TOKEN_CLASSES = {"labels": IDS["input_ids"] % 3}
SPANS = {"start_positions": torch.tensor([0, 2, 3]), "end_positions": torch.tensor([1, 5, 3])}
CASES = {
    "causal": HeadCase(lambda **fields: TrineForCausalLM(tiny_config(**fields)), TARGETS, IDS, 61),
    "masked": HeadCase(encoder(TrineForMaskedLM), TARGETS, IDS, 61),
    "pretraining": HeadCase(encoder(TrineForPreTraining), TARGETS, IDS, 61),
    "seq2seq": HeadCase(seq2seq(TrineForConditionalGeneration), TARGETS, IDS, 61),
    "recurrent": HeadCase(
        lambda **fields: recurrent.tiny_model(dtype=torch.float32, **fields),
        {"labels": TARGETS["labels"] % 41},
        {"input_ids": IDS["input_ids"] % 41},
        41,
    ),
    "sentences": HeadCase(
        encoder(TrineForPreTraining), {"next_sentence_label": torch.tensor([0, 1, 1])}, IDS, 2, False
    ),
    "tokens": HeadCase(encoder(TrineForTokenClassification, num_labels=3), TOKEN_CLASSES, IDS, 3, False),
    "sequences": HeadCase(encoder(TrineForSequenceClassification, num_labels=3), CLASSES, IDS, 3, False),
    "encoded tokens": HeadCase(seq2seq(TrineSeq2SeqForTokenClassification), TOKEN_CLASSES, IDS, 3, False),
    "decoded spans": HeadCase(seq2seq(TrineSeq2SeqForQuestionAnswering), SPANS, IDS, 6, False),
    "decoded sequences": HeadCase(seq2seq(TrineSeq2SeqForSequenceClassification), CLASSES, IDS, 3, False),
    "choices": HeadCase(
        encoder(TrineForMultipleChoice),
        {"labels": torch.tensor([1, 0, 1])},
        {"input_ids": random_ids(3, 2, 6)},
        2,
        False,
    ),
    "spans": HeadCase(encoder(TrineForQuestionAnswering), SPANS, IDS, 6, False),
}
TOKEN_CASES = {name: case for name, case in CASES.items() if case.predicts_tokens}
SPARSE_EXPERTS = {"router_aux_loss_coef": 0.5, "router_z_loss_coef": 0.5, **SPARSE}


def make(name: str, **fields) -> Any:
    """The model of a case, in training mode, with the attention that users get."""
    torch.manual_seed(0)
    return CASES[name].make(**fields).train()


def gradients(model, inputs: dict[str, torch.Tensor], **kwargs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss, and the gradient of every parameter that has one."""
    model.zero_grad()
    loss = model(**inputs, **kwargs).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
