"""Masked language models, next-sentence prediction and classifiers: the loops, BERT itself, packing, losses."""

import pytest
import torch
from support import reference
from support.tiny import (
    MIXED,
    SPARSE,
    assert_gradients_equal,
    has_deferred_logits,
    leaves,
    random_ids,
    tiny_config,
    tiny_model,
)
from torch import nn
from transformers import AutoConfig, BertConfig, BertForMaskedLM, BertForPreTraining, BertModel

import trine
from trine import TrineConfig, TrineForMaskedLM, TrineForPreTraining, TrineModel
from trine.configuration.kinds import POOLINGS
from trine.modeling.heads.table import HEADS


BERT = {
    "is_causal": False,
    "position_type": "learned",
    "type_vocab_size": 2,
    "norm_type": "layernorm",
    "norm_position": "post",
    "embedding_norm": True,
    "hidden_act": "gelu",
    "gated_mlp": False,
    "attention_bias": True,
    "mlp_bias": True,
    "num_key_value_heads": 4,
    "norm_eps": 1e-12,
    "add_pooling_layer": True,
}
MODERNBERT = {
    "is_causal": False,
    "norm_type": "layernorm",
    "norm_bias": False,
    "first_attention_norm": False,
    "embedding_norm": True,
    "hidden_act": "gelu",
    "num_hidden_layers": 3,
    "attention_types": "full, sliding*2",
    "sliding_window": 2,
    "rope_parameters": {"full_attention": {"rope_theta": 500.0}, "sliding_attention": {"rope_theta": 20.0}},
    "classifier_transform": True,
}
ENCODERS = {
    "bert": BERT,
    "modernbert": MODERNBERT,
    "modern": {"is_causal": False, "hidden_act": "gelu", "embedding_norm": True, **MIXED},
    "relative": {"is_causal": False, "position_type": "relative", "tie_word_embeddings": False, **MIXED},
    "sparse": {"is_causal": False, "router_aux_loss_coef": 0.0, **SPARSE},
}
EVERY_ENCODER = pytest.mark.parametrize("name", ENCODERS)
TOLERANCES = {"rtol": 1e-5, "atol": 1e-5}  # rotary angles are float32
MASKED_CLASSES = (TrineForMaskedLM, TrineForPreTraining)


def masked(ids: torch.Tensor, every: int = 3) -> torch.Tensor:
    """Labels for every third position."""
    labels = torch.full_like(ids, -100)
    labels[:, 1::every] = ids[:, 1::every].flip(1)
    return labels


def ragged(lengths=(11, 4, 9)) -> list[torch.Tensor]:
    return [random_ids(length, seed=length) for length in lengths]


def padded(rows: list[torch.Tensor], side: str = "right", fill: int = 0) -> dict[str, torch.Tensor]:
    width = max(map(len, rows)) + 2
    pads = [(0, width - len(row)) if side == "right" else (width - len(row), 0) for row in rows]
    ids = [nn.functional.pad(row, pad, value=fill) for row, pad in zip(rows, pads, strict=True)]
    ones = [nn.functional.pad(torch.ones_like(row), pad) for row, pad in zip(rows, pads, strict=True)]
    return {"input_ids": torch.stack(ids), "attention_mask": torch.stack(ones)}


def packed(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None],
    }


# Masked tokens and next sentences


@EVERY_ENCODER
@pytest.mark.parametrize("chunk", [None, 3])
def test_masked_language_models_equal_the_loop(chunk, name):
    """Logits in evaluation; in training the loss, which only looks at labelled positions, and every gradient."""
    model = tiny_model(TrineForMaskedLM, loss_chunk_size=chunk, **ENCODERS[name])
    ids, labels = random_ids(2, 9), masked(random_ids(2, 9))
    tensors = leaves(model)
    weights = reference.Weights(tensors)
    expected = torch.stack([reference.masked_lm_logits(model.config, weights, row.tolist()) for row in ids])
    outputs = model(ids, labels=labels)
    torch.testing.assert_close(outputs.logits, expected, check_dtype=False, **TOLERANCES)
    total, count = reference.cross_entropy(expected.flatten(0, 1), labels.flatten().tolist())
    torch.testing.assert_close(outputs.loss.double(), total / count, rtol=1e-6, atol=1e-6)
    trained = model.train()(ids, labels=labels)
    assert has_deferred_logits(trained) == (chunk is not None)
    torch.testing.assert_close(trained.loss.double(), total / count, rtol=1e-6, atol=1e-6)
    trained.loss.backward()
    (total / count).backward()
    assert_gradients_equal(model, tensors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("segments", [None, [0, 0, 0, 1, 1, 1, 1]])
def test_both_pretraining_heads_equal_the_loop(segments):
    model, ids = tiny_model(TrineForPreTraining, **BERT), random_ids(1, 7)
    weights = reference.Weights(leaves(model))
    token_type_ids = None if segments is None else torch.tensor([segments])
    outputs = model(ids, token_type_ids=token_type_ids)
    expected = reference.masked_lm_logits(model.config, weights, ids[0].tolist(), segments)
    torch.testing.assert_close(outputs.prediction_logits[0], expected, **TOLERANCES)
    expected = reference.next_sentence_logits(model.config, weights, ids[0].tolist(), segments)
    torch.testing.assert_close(outputs.seq_relationship_logits[0], expected, **TOLERANCES)


def bert_to_ours(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """BERT's weights under our names."""
    names = {
        "bert.embeddings.word_embeddings": "model.embed_tokens",
        "bert.embeddings.position_embeddings": "model.positions.embed_positions",
        "bert.embeddings.token_type_embeddings": "model.token_type_embeddings",
        "bert.embeddings.LayerNorm": "model.embedding_norm",
        "bert.encoder.layer": "model.layers",
        "attention.self.query": "self_attn.q_proj",
        "attention.self.key": "self_attn.k_proj",
        "attention.self.value": "self_attn.v_proj",
        "attention.output.dense": "self_attn.o_proj",
        "attention.output.LayerNorm": "input_layernorm",
        "intermediate.dense": "mlp.up_proj",
        "output.dense": "mlp.down_proj",
        "output.LayerNorm": "post_attention_layernorm",
        "bert.pooler": "model.pooler",
        "cls.predictions.transform.dense": "transform.dense",
        "cls.predictions.transform.LayerNorm": "transform.norm",
        "cls.predictions.decoder": "lm_head",
        "cls.seq_relationship": "seq_relationship",
    }
    moved = {}
    for key, tensor in state.items():
        if key == "cls.predictions.bias":  # the decoder has the same one
            continue
        for theirs, ours in names.items():
            key = key.replace(theirs, ours)
        moved[key] = tensor
    return moved


@pytest.mark.parametrize("side", ["right", None])
def test_equal_weights_give_what_bert_gives(side):
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    config = BertConfig(
        **sizes,
        num_attention_heads=4,
        max_position_embeddings=96,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
    )
    torch.manual_seed(0)
    peer = BertForPreTraining(config).double().eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.mul_(3.0).add_(torch.randn_like(parameter), alpha=0.1)
    ours = tiny_model(TrineForPreTraining, attn="sdpa", **BERT)
    ours.load_state_dict(bert_to_ours(peer.state_dict()))
    inputs = padded(ragged()) if side else {"input_ids": random_ids(3, 13)}
    labels = masked(inputs["input_ids"])
    arguments = {
        **inputs,
        "token_type_ids": (torch.arange(13) > 4).long().expand(3, -1),
        "labels": labels.masked_fill(inputs.get("attention_mask", torch.ones_like(labels)) == 0, -100),
        "next_sentence_label": torch.tensor([0, 1, 1]),
    }
    expected, actual = peer(**arguments), ours(**arguments)
    real = inputs.get("attention_mask", torch.ones(3, 13)) == 1
    close = {"rtol": 1e-6, "atol": 1e-6, "check_dtype": False}
    torch.testing.assert_close(actual.prediction_logits[real], expected.prediction_logits[real], **close)
    torch.testing.assert_close(actual.seq_relationship_logits, expected.seq_relationship_logits, **close)
    torch.testing.assert_close(actual.loss, expected.loss, **close)
    expected, actual = peer.train()(**arguments), ours.train()(**arguments)
    torch.testing.assert_close(actual.loss, expected.loss, **close)
    expected.loss.backward()
    actual.loss.backward()
    gradients = bert_to_ours({name: parameter.grad for name, parameter in peer.named_parameters()})
    for name, parameter in ours.named_parameters():
        if name in gradients and name != "lm_head.bias":
            torch.testing.assert_close(parameter.grad, gradients[name], **close, msg=lambda m, n=name: f"{n}: {m}")


LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}


@pytest.mark.parametrize(("preset", "fields"), [("bert-base", {}), ("bert-large", LARGE)])
def test_the_bert_presets_have_the_parameters_of_bert(preset, fields):
    config = TrineConfig.from_preset(preset)
    with torch.device("meta"):
        for ours, theirs in (
            (TrineModel, BertModel),
            (TrineForMaskedLM, BertForMaskedLM),
            (TrineForPreTraining, BertForPreTraining),
        ):
            assert ours(config).num_parameters() == theirs(BertConfig(**fields)).num_parameters()


def test_roberta_has_the_parameters_of_roberta():
    with torch.device("meta"):
        peer = AutoConfig.for_model("roberta", vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
        expected = trine.transformers.RobertaModel(peer).num_parameters()
        assert TrineModel(TrineConfig.from_preset("roberta-base")).num_parameters() == expected


@pytest.mark.parametrize("model_class", MASKED_CLASSES)
def test_masked_losses_add_up_over_micro_batches(model_class):
    model, ids = tiny_model(model_class, **BERT).train(), random_ids(4, 9)
    labels = masked(ids)
    labels[0, :7] = -100  # micro-batches with different numbers of targets
    arguments = {"input_ids": ids, "labels": labels}
    if model_class is TrineForPreTraining:
        arguments["next_sentence_label"] = torch.tensor([0, 1, 1, 0])
        labels[0], labels[1:] = (
            masked(ids)[0],
            masked(ids)[1:],
        )  # its second loss is weighed by the targets: equal ones
    whole = model(**arguments).loss
    count = (labels != -100).sum()
    parts = [
        model(**{name: rows[i : i + 1] for name, rows in arguments.items()}, num_items_in_batch=count).loss
        for i in range(4)
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-9, atol=1e-9)


# Classifiers


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


def test_one_segment_is_no_segment():
    model, ids = tiny_model(TrineModel, is_causal=False), random_ids(2, 7)
    zeros = torch.zeros_like(ids)
    assert torch.equal(model(ids, token_type_ids=zeros).last_hidden_state, model(ids).last_hidden_state)


def test_segments_default_to_the_first():
    model, ids = tiny_model(TrineModel, **BERT), random_ids(2, 7)
    zeros = torch.zeros_like(ids)
    assert torch.equal(model(ids).last_hidden_state, model(ids, token_type_ids=zeros).last_hidden_state)
    assert not torch.equal(model(ids).last_hidden_state, model(ids, token_type_ids=zeros + 1).last_hidden_state)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_mask_of_one_row_serves_a_batch(pooling):
    """As captum gives it: a batch of interpolated embeddings with the mask of the one text, which pads nothing."""
    model = tiny_model(trine.TrineForSequenceClassification, attn="sdpa", is_causal=False, classifier_pooling=pooling)
    ids = random_ids(3, 7)
    expected = model(ids).logits
    torch.testing.assert_close(model(ids, attention_mask=torch.ones(1, 7)).logits, expected)
