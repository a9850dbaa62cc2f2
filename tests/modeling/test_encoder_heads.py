"""Masked language models, next-sentence prediction and segments: the loops, BERT itself, packing, losses."""

import pytest
import torch
from support import reference
from support.encoder_batches import BERT, MODERNBERT, padded, ragged
from support.tiny import MIXED, SPARSE, assert_gradients_equal, has_deferred_logits, leaves, random_ids, tiny_model
from transformers import AutoConfig, BertConfig, BertForMaskedLM, BertForPreTraining, BertModel

import trine
from trine import TrineConfig, TrineForMaskedLM, TrineForPreTraining, TrineModel


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


def test_one_segment_is_no_segment():
    model, ids = tiny_model(TrineModel, is_causal=False), random_ids(2, 7)
    zeros = torch.zeros_like(ids)
    assert torch.equal(model(ids, token_type_ids=zeros).last_hidden_state, model(ids).last_hidden_state)


def test_segments_default_to_the_first():
    model, ids = tiny_model(TrineModel, **BERT), random_ids(2, 7)
    zeros = torch.zeros_like(ids)
    assert torch.equal(model(ids).last_hidden_state, model(ids, token_type_ids=zeros).last_hidden_state)
    assert not torch.equal(model(ids).last_hidden_state, model(ids, token_type_ids=zeros + 1).last_hidden_state)
