"""Classifiers of encoders and decoders: poolings, layouts, losses, and what they save."""

import pytest
import torch
from support import reference
from support.encoder_batches import BERT, MODERNBERT, packed, padded, ragged
from support.tiny import MIXED, SPARSE, leaves, random_ids, tiny_config, tiny_model
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification

import trine
from trine import TrineForSequenceClassification
from trine.configuration.kinds import POOLINGS
from trine.conversion.convert import convert
from trine.modeling.heads.table import HEADS


TOLERANCES = {"rtol": 1e-5, "atol": 1e-5}  # rotary angles are float32
LABELLED = {"num_labels": 5}


def head_model(auto_class: str, **fields):
    return tiny_model(HEADS[auto_class], **{**LABELLED, **fields})


def trunk_states(model, row: torch.Tensor) -> torch.Tensor:
    weights = reference.Weights(leaves(model))
    return reference.trunk(model.config, weights["model"], row.tolist())


POOLED = {
    "cls": lambda states: states[0],
    "mean": lambda states: states.mean(dim=0),
    "last": lambda states: states[-1],
}


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@pytest.mark.parametrize("pooling", sorted(POOLINGS))
@pytest.mark.parametrize("is_causal", [True, False])
def test_sequences_are_classified_by_the_token_that_the_config_names(is_causal, pooling, layout):
    model = head_model("AutoModelForSequenceClassification", is_causal=is_causal, classifier_pooling=pooling, **MIXED)
    rows = ragged()
    inputs = packed(rows) if layout == "packed" else padded(rows, layout)
    logits = model(**inputs).logits
    for row, actual in zip(rows, logits, strict=True):
        expected = model.classifier(POOLED[pooling](trunk_states(model, row)))
        torch.testing.assert_close(actual, expected, **TOLERANCES)


def test_the_default_pooling_follows_the_shape():
    assert tiny_config().classifier_pooling == "last" and tiny_config(is_causal=False).classifier_pooling == "cls"


@pytest.mark.parametrize("name", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
def test_a_classifier_of_modernbert_reads_the_transform(name):
    model, ids = head_model(f"AutoModelFor{name}", **MODERNBERT), random_ids(1, 9)
    weights = reference.Weights(leaves(model))
    states = reference.trunk(model.config, weights["model"], ids[0].tolist())
    states = states[:1] if name == "SequenceClassification" else states
    states = reference.transform(model.config, weights["transform"], states)
    expected = reference.linear(states, weights["qa_outputs" if "Question" in name else "classifier"])
    outputs = model(ids)
    if name == "QuestionAnswering":
        actual = torch.stack([outputs.start_logits[0], outputs.end_logits[0]], dim=-1)
    else:
        actual = outputs.logits.reshape(expected.shape)
    torch.testing.assert_close(actual, expected, **TOLERANCES)


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_a_classifier_of_bert_reads_the_pooler(layout):
    model, rows = head_model("AutoModelForSequenceClassification", **BERT), ragged()
    logits = model(**(packed(rows) if layout == "packed" else padded(rows, layout))).logits
    for row, actual in zip(rows, logits, strict=True):
        pooled = torch.tanh(model.model.pooler.dense(trunk_states(model, row)[0]))
        torch.testing.assert_close(actual, model.classifier(pooled), **TOLERANCES)


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type", "loss"),
    [
        (5, torch.tensor([0, 4, 2]), "single_label_classification", nn.functional.cross_entropy),
        (5, torch.randint(2, (3, 5)).double(), "multi_label_classification", nn.BCEWithLogitsLoss()),
        (1, torch.tensor([0.5, -1.0, 2.0]), "regression", lambda logits, y: ((logits[:, 0] - y) ** 2).mean()),
    ],
)
def test_each_problem_has_its_loss_and_the_config_remembers_it(num_labels, labels, problem_type, loss):
    fields = {"is_causal": False, "num_labels": num_labels}
    model, inputs = head_model("AutoModelForSequenceClassification", **fields), padded(ragged())
    outputs = model(**inputs, labels=labels)
    assert model.config.problem_type == problem_type
    torch.testing.assert_close(outputs.loss, loss(outputs.logits, labels), check_dtype=False)
    inputs["labels"] = labels
    count = labels.numel()
    parts = [model(**{k: v[i : i + 1] for k, v in inputs.items()}, num_items_in_batch=count) for i in range(3)]
    torch.testing.assert_close(sum(part.loss for part in parts), outputs.loss)


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@pytest.mark.parametrize("is_causal", [True, False])
def test_tokens_are_classified_each(is_causal, layout):
    model, rows = head_model("AutoModelForTokenClassification", is_causal=is_causal, **MIXED), ragged()
    inputs = packed(rows) if layout == "packed" else padded(rows, layout)
    logits = model(**inputs).logits
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])) == 1
    expected = torch.cat([model.classifier(trunk_states(model, row)) for row in rows])
    torch.testing.assert_close(logits[real], expected, **TOLERANCES)
    labels = random_ids(*inputs["input_ids"].shape, vocab_size=5).masked_fill(~real, -100)
    loss = nn.functional.cross_entropy(expected, labels[real])
    torch.testing.assert_close(model(**inputs, labels=labels).loss, loss, **TOLERANCES)


def test_answers_have_a_start_and_an_end():
    model, rows = head_model("AutoModelForQuestionAnswering", is_causal=False), [random_ids(9), random_ids(9, seed=1)]
    ids, starts, ends = torch.stack(rows), torch.tensor([2, 5]), torch.tensor([4, 8])
    outputs = model(ids, start_positions=starts, end_positions=ends)
    expected = torch.stack([model.qa_outputs(trunk_states(model, row)) for row in rows])
    torch.testing.assert_close(outputs.start_logits, expected[..., 0], **TOLERANCES)
    torch.testing.assert_close(outputs.end_logits, expected[..., 1], **TOLERANCES)
    cross_entropy = nn.functional.cross_entropy
    loss = (cross_entropy(expected[..., 0], starts) + cross_entropy(expected[..., 1], ends)) / 2
    torch.testing.assert_close(outputs.loss, loss, **TOLERANCES)


def test_choices_are_scored_one_by_one():
    model, ids = head_model("AutoModelForMultipleChoice", **BERT), random_ids(2, 3, 7)
    outputs = model(ids, attention_mask=torch.ones_like(ids), labels=torch.tensor([2, 0]))
    scores = [model.classifier(model.model(row).pooler_output)[:, 0] for row in ids]
    torch.testing.assert_close(outputs.logits, torch.stack(scores))
    torch.testing.assert_close(outputs.loss, nn.functional.cross_entropy(torch.stack(scores), torch.tensor([2, 0])))


@pytest.mark.parametrize("auto_class", [name for name in HEADS if name != "AutoModelForCausalLM"])
def test_every_head_saves_loads_and_balances_its_experts(auto_class, tmp_path):
    fields = {"is_causal": False, "router_aux_loss_coef": 0.5, "dtype": torch.float32, **SPARSE}
    model = head_model(auto_class, **fields)
    model.save_pretrained(tmp_path)
    loaded = getattr(trine.transformers, auto_class).from_pretrained(tmp_path, experts_implementation="eager")
    assert type(loaded) is HEADS[auto_class]
    shape = (2, 3, 7) if auto_class == "AutoModelForMultipleChoice" else (2, 7)
    ids = random_ids(*shape)
    torch.testing.assert_close(loaded(ids).to_tuple(), model(ids).to_tuple())
    labels = {"labels": ids if auto_class in ("AutoModelForMaskedLM", "AutoModelForPreTraining") else ids[:, 0] % 3}
    if auto_class == "AutoModelForTokenClassification":
        labels = {"labels": ids % 5}
    if auto_class == "AutoModelForMultipleChoice":
        labels = {"labels": torch.tensor([1, 2])}
    if auto_class == "AutoModelForNextSentencePrediction":
        labels = {"labels": torch.tensor([1, 0])}
    if auto_class == "AutoModelForQuestionAnswering":
        labels = {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([1, 2])}
    model.train()
    outputs = model(ids, output_router_logits=True, **labels)
    assert len(outputs.router_logits) == 2
    model.config.router_aux_loss_coef = 0.0
    plain = model(ids, **labels)
    assert plain.router_logits is None
    torch.testing.assert_close(outputs.loss, plain.loss + 0.5 * outputs.aux_loss)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_mask_of_one_row_serves_a_batch(pooling):
    """As captum gives it: a batch of interpolated embeddings with the mask of the one text, which pads nothing."""
    model = tiny_model(trine.TrineForSequenceClassification, attn="sdpa", is_causal=False, classifier_pooling=pooling)
    ids = random_ids(3, 7)
    expected = model(ids).logits
    torch.testing.assert_close(model(ids, attention_mask=torch.ones(1, 7)).logits, expected)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_last_token_without_a_mask_is_that_of_transformers(side, tmp_path):
    """Llama finds padding by its id; so does a converted one, and one made here."""
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, num_labels=3)
    theirs = LlamaForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path / "llama")
    convert(tmp_path / "llama", tmp_path / "ours")
    ours = TrineForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    ids = torch.randint(1, 40, (3, 12), generator=torch.Generator().manual_seed(0))
    ids[0, slice(8, None) if side == "right" else slice(4)] = 0
    ids[1, 5] = 0  # within a text it is a token
    ids[2] = 0
    with torch.no_grad():
        expected, alone = theirs(input_ids=ids).logits, ours(input_ids=ids[:1]).logits
        torch.testing.assert_close(ours(input_ids=ids).logits, expected)
        torch.testing.assert_close(alone, expected[:1])
        mask = torch.ones_like(ids)
        with_mask = ours(input_ids=ids, attention_mask=mask).logits
        last = ours.classify(ours.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, -1])
    torch.testing.assert_close(with_mask, last)  # a mask that is given is what counts
    assert side == "left" or (with_mask[0] - expected[0]).abs().max() > 1e-3
