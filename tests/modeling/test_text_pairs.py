"""Pairs of texts for models without segments: those that a tokenizer sends are ignored, as DistilBERT does."""

import logging

import pytest
import torch
from sentence_transformers import CrossEncoder
from support.tiny import random_ids, tiny_model
from transformers import pipeline
from transformers.utils import logging as library_logging

from trine import TrineForMaskedLM, TrineForSequenceClassification, TrineModel, train_wordpiece


TEXTS = ["a man plays the guitar", "somebody makes music", "the sky is blue today", "it rains"]


@pytest.fixture(scope="module")
def tokenizer():
    made = train_wordpiece(TEXTS * 5, 160, show_progress=False, model_max_length=64)
    assert "token_type_ids" in made.model_input_names
    return made


@pytest.fixture
def folder(tokenizer, tmp_path):
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    fields = {"is_causal": False, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    fields |= {"id2label": labels, "label2id": {label: index for index, label in labels.items()}}
    model = tiny_model(TrineForSequenceClassification, dtype=torch.float32, attn="sdpa", scale=2.0, **fields)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return model, str(tmp_path)


@torch.no_grad()
def logits_of(model, tokenizer, first: str, second: str) -> torch.Tensor:
    """Without segments."""
    return model(**tokenizer(first, second, return_tensors="pt", return_token_type_ids=False)).logits[0]


@pytest.mark.parametrize("model_class", [TrineModel, TrineForMaskedLM])
def test_segments_change_nothing_and_one_warning_says_so(model_class, caplog):
    model = tiny_model(model_class, is_causal=False)
    ids, segments = random_ids(2, 7), torch.tensor([[0, 0, 0, 1, 1, 1, 1]]).expand(2, -1)
    library_logging.enable_propagation()
    library_logging.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        outputs = [model(ids, token_type_ids=given)[0] for given in (None, torch.zeros_like(ids), segments, segments)]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert [record.message for record in caplog.records].count(
        "token_type_ids name several segments, and are ignored: type_vocab_size=0, the model has none."
    ) == 1


def test_text_classification_of_pairs(folder, tokenizer):
    model, path = folder
    (answer,) = pipeline("text-classification", model=path, top_k=None)([{"text": TEXTS[0], "text_pair": TEXTS[1]}])
    expected = logits_of(model, tokenizer, TEXTS[0], TEXTS[1]).softmax(-1).tolist()
    scores = {one["label"]: one["score"] for one in answer}
    assert scores == pytest.approx({model.config.id2label[i]: p for i, p in enumerate(expected)}, rel=1e-4)


def test_zero_shot_classification(folder, tokenizer):
    model, path = folder
    labels, template = ["music", "sky"], "it is {}"
    answer = pipeline("zero-shot-classification", model=path)(TEXTS[0], labels, hypothesis_template=template)
    logits = torch.stack([logits_of(model, tokenizer, TEXTS[0], template.format(label)) for label in labels])
    expected = dict(zip(labels, logits[:, 2].softmax(-1).tolist(), strict=True))
    assert dict(zip(answer["labels"], answer["scores"], strict=True)) == pytest.approx(expected, rel=1e-4)


def test_cross_encoder(folder, tokenizer):
    model, path = folder
    pairs = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3])]
    scores = torch.tensor(CrossEncoder(path, device="cpu").predict(pairs))
    expected = torch.stack([logits_of(model, tokenizer, *pair) for pair in pairs])
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
