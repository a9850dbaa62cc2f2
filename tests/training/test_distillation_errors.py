"""Options, models and batches that distillation refuses, each with a message that names them."""

import pytest
from support.distilling import encoder, loss_of, make_trainer, padded_batch, translator
from support.tiny import tiny_model
from transformers import TrainingArguments

from trine import TrineForMaskedLM, TrineForSequenceClassification
from trine.training.objectives.distillation.base import DistillationOptions


OPTION_ERRORS = [
    ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
    ({"temperature": -1.0}, "temperature=-1.0 must be above 0"),
    ({"alpha_hidden": -1.0}, "alpha_hidden=-1.0 must be a finite number, at least 0"),
    ({"objective": ["logit"]}, r"objective\[0\]='logit' is not one of \['logits', 'hidden'.*Did you mean 'logits'"),
    ({"objective": []}, r"objective=\[\] names nothing; choose from \['logits'"),
    ({"relations": ["values"]}, r"relations\[0\]='values' is not one of \['query', 'key', 'value'\]"),
    ({"hidden_distance": "l1"}, r"hidden_distance='l1' is not one of \['cosine', 'mse'\]"),
    ({"objective": ["hidden"], "alpha_labels": 1.0}, r"alpha_labels=1.0 needs 'logits' in objective=\['hidden'\]"),
    ({"relation_heads": 0}, "relation_heads=0 must be at least 1"),
    ({"alpha_logits": 0.0}, r"objective=\['logits'\] has no alpha above 0"),
]


@pytest.mark.parametrize(("fields", "message"), OPTION_ERRORS)
def test_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DistillationOptions(**fields)


MODEL_ERRORS = {
    "no teacher": (tiny_model, lambda: None, {}, r"objective=\['logits'\] needs a teacher_model"),
    "vocabulary": (tiny_model, lambda: tiny_model(vocab_size=70), {}, "'logits' needs one vocabulary, but stack 0 of"),
    "hidden": (
        tiny_model,
        lambda: tiny_model(vocab_size=70),
        {"objective": ["hidden"]},
        "has vocab_size=61, and of the teacher 70. With other vocabularies choose 'embeddings', or 'relations'",
    ),
    "family": (tiny_model, translator, {}, "model_type='trine' of the student differs from 'trine_seq2seq'"),
    "no head": (encoder, encoder, {}, "needs a teacher with a head that predicts tokens, such as .* not a TrineModel"),
    "classifier": (
        lambda: tiny_model(TrineForSequenceClassification, is_causal=False),
        lambda: tiny_model(TrineForMaskedLM, is_causal=False),
        {},
        "needs a student with a head .* not a TrineForSequenceClassification",
    ),
    "pointer": (translator, lambda: translator(pointer_size=8), {}, "does not take a teacher that copies"),
    "map": (
        encoder,
        encoder,
        {"objective": ["hidden"], "layer_map": "1:3"},
        "layer_map='1:3' has 1:3, but the student has layers up to 2, and the teacher up to 2",
    ),
    "words": (encoder, encoder, {"objective": ["hidden"], "layer_map": "1-3"}, "layer_map='1-3' is none of 'last'"),
    "empty": (encoder, encoder, {"objective": ["hidden"], "layer_map": " "}, "layer_map='' names no layers"),
    "heads": (
        encoder,
        encoder,
        {"objective": ["relations"], "relation_heads": 3},
        "relation_heads=3 does not divide 16, the width of the student",
    ),
    "layer": (
        encoder,
        encoder,
        {"objective": ["relations"], "relation_layer": 2},
        "relation_layer=2 is no layer of the teacher, which has 0 to 1",
    ),
    "writer": (tiny_model, lambda: None, {"objective": ["sequences"]}, "needs a student that reads a text and writes"),
    "copier": (
        lambda: translator(pointer_size=8),
        lambda: None,
        {"objective": ["sequences"]},
        "objective='sequences' does not take a student that copies",
    ),
    "translator": (translator, lambda: None, {"objective": ["embeddings"]}, "needs a student with one stack"),
}


@pytest.mark.parametrize("case", MODEL_ERRORS)
def test_models_are_refused(case, tmp_path):
    student, teacher, options, message = MODEL_ERRORS[case]
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, student(), teacher(), **options)


def test_a_layer_without_values_has_no_relations(tmp_path):
    student = encoder()
    del student.layers[1].self_attn.v_proj
    with pytest.raises(
        ValueError, match="relations has 'value', but layer 1 of the student, of kind 'full', has no v_"
    ):
        make_trainer(tmp_path, student, encoder(), objective=["relations"])


def test_batches_and_processes_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="pooling='max' is not one of"):
        make_trainer(tmp_path, encoder(), None, embeddings={"pooling": "max"}, objective=["embeddings"])
    batch = padded_batch()
    with pytest.raises(ValueError, match="objective='embeddings' needs teacher_embeddings in the batch"):
        loss_of(make_trainer(tmp_path, encoder(), None, objective=["embeddings"]), batch)
    del batch["labels"]
    with pytest.raises(ValueError, match="objective='logits' needs labels in the batch"):
        loss_of(make_trainer(tmp_path, tiny_model(), tiny_model()), batch)
    with pytest.raises(ValueError, match="objective='sequences' needs labels in the batch, what the teacher wrote"):
        loss_of(make_trainer(tmp_path, translator(), None, objective=["sequences"]), batch)
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 2))
    with pytest.raises(ValueError, match="world_size=2 and n_gpu=0: distillation trains on one device"):
        make_trainer(tmp_path, tiny_model(), tiny_model())
