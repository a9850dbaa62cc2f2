"""What a training step reads on the host, each of which would stop a GPU's queue: nothing, as far as it may be."""

import collections

import pytest
import torch
from support.recurrent import tiny_config as recurrent_config
from support.tiny import SIZES, random_ids, tiny_config
from torch.utils._python_dispatch import TorchDispatchMode

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineForSequenceClassification,
    TrineForTokenClassification,
    TrineRecurrentForConditionalGeneration,
    TrineSeq2SeqConfig,
)
from trine.modeling.checks import ids


READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::_unique2"}
EXPERTS = {"mlp_layer_types": "sparse", "num_experts": 4, "num_experts_per_tok": 2}
PAIR = {"encoder": SIZES, "decoder": SIZES, "decoder_start_token_id": 1, "pad_token_id": 0}


class Reads(TorchDispatchMode):
    """Counts the operators that hand a value to the host."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.name().partition(".")[0]
        if name in READS:
            self.counts[name] += 1
        return operator(*args, **kwargs or {})


def encoder(model_class, **fields):
    return lambda: model_class(tiny_config(is_causal=False, **fields))


MODELS = {
    "decoder": lambda: TrineForCausalLM(tiny_config()),
    "whole logits": lambda: TrineForCausalLM(tiny_config(loss_chunk_size=None)),
    "experts": lambda: TrineForCausalLM(tiny_config(**EXPERTS, router_aux_loss_coef=0.01)),
    "encoder": encoder(TrineForMaskedLM),
    "tags": encoder(TrineForTokenClassification, num_labels=3),
    "pooled by the first token": encoder(TrineForSequenceClassification, num_labels=3, classifier_pooling="cls"),
    "pooled by the mean": encoder(TrineForSequenceClassification, num_labels=3, classifier_pooling="mean"),
    "encoder-decoder": lambda: TrineForConditionalGeneration(TrineSeq2SeqConfig(**PAIR)),
    "recurrent": lambda: TrineRecurrentForConditionalGeneration(recurrent_config()),
}
CLASSES = {"tags": (2, 12), "pooled by the first token": (2,), "pooled by the mean": (2,)}


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Values are checked on a CPU only, where it costs no synchronisation."""
    monkeypatch.setattr(ids, "can_look", lambda values: False)


def reads_of(name: str, **inputs) -> dict[str, int]:
    model = MODELS[name]().train()
    tokens = random_ids(2, 12, vocab_size=29)
    labels = torch.ones(CLASSES[name], dtype=torch.long) if name in CLASSES else tokens
    with Reads() as reads:
        model(input_ids=tokens, labels=labels, **inputs).loss.backward()
    return dict(reads.counts)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_without_padding_reads_nothing(name, as_on_a_gpu):
    assert reads_of(name) == {}


@pytest.mark.parametrize("name", ["decoder", "experts"])
def test_the_number_of_targets_of_a_whole_batch_is_not_read(name, as_on_a_gpu):
    assert reads_of(name, num_items_in_batch=torch.tensor(22)) == {}


def test_segments_that_a_model_has_not_are_not_read(as_on_a_gpu, monkeypatch):
    monkeypatch.setattr("trine.modeling.modeling_trine.can_look", lambda values: False)
    assert reads_of("encoder", token_type_ids=torch.zeros(2, 12, dtype=torch.long)) == {}


def test_reads_are_counted():
    with Reads() as reads:
        assert torch.ones(3).sum().item() == 3 and torch.equal(torch.ones(2), torch.ones(2))
        torch.ones(2).nonzero()
    assert reads.counts.keys() == {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero"}


def test_a_single_row_of_a_new_text_is_not_taken_for_packed(as_on_a_gpu):
    """Packing shows in positions that the caller gives; without any there is nothing to look for."""
    model = TrineForCausalLM(TrineConfig(**SIZES)).train()
    with Reads() as reads:
        model(input_ids=random_ids(1, 12, vocab_size=29)).logits.sum().backward()
    assert not reads.counts
