"""Routing maps are what the routers' logits say, and the shares of tags are counts made by hand."""

from collections import Counter

import pytest
import torch
from support.recurrent import tiny_model as tiny_recurrent
from support.tiny import SIZES, SPARSE, random_ids, tiny_model

from trine import TrineForConditionalGeneration, TrineForMaskedLM, TrineSeq2SeqConfig, train_wordpiece
from trine.inspection.attention import Reading
from trine.inspection.expert_routing import ALL, REST, expert_maps, experts_by_tag


MIXED = {**SPARSE, "mlp_layer_types": "sparse, dense, sparse", "num_hidden_layers": 3}
RECORDS = [
    (["the", "cat", "sat"], ["at", "nn", "vb"]),
    (["a", "dog", "saw", "the", "catalogue"], ["at", "nn", "vb", "at", "nn"]),
    (["dogs", "sat", "."], ["nns", "vb", "."]),
]


def reading_of(ids, targets=None) -> Reading:
    inputs = {"input_ids": ids} if targets is None else {"input_ids": ids, "decoder_input_ids": targets}
    return Reading(inputs, ["s"] * ids.shape[1], ["t"] * (0 if targets is None else targets.shape[1]), [], [])


def by_definition(config, logits, bias):
    """Weights of all experts for each token, in float64, expert by expert."""
    scores = logits.double().softmax(-1) if config.router_type == "softmax" else logits.double().sigmoid()
    expected = torch.zeros_like(scores)
    for token, row in enumerate(scores.detach()):
        order = sorted(range(len(row)), key=lambda expert: -float(row[expert] + bias[expert]))
        chosen = order[: config.num_experts_per_tok]
        total = sum(float(row[expert]) for expert in chosen)
        for expert in chosen:
            expected[token, expert] = float(row[expert]) / total * config.routed_scaling_factor
    return expected


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_the_weights_are_those_of_the_chosen_experts(router):
    model = tiny_model(**MIXED, router_type=router, routed_scaling_factor=1.5)
    ids = random_ids(1, 7)
    maps = expert_maps(model, reading_of(ids))
    logits = model(ids, output_router_logits=True).router_logits
    assert [(item.name, item.layer) for item in maps] == [("experts", 0), ("experts", 2)]
    for item, own in zip(maps, logits, strict=True):
        gate = model.model.layers[item.layer].mlp.gate
        bias = getattr(gate, "e_score_correction_bias", torch.zeros(4))
        assert item.columns == [f"expert {number}" for number in range(4)] and len(item.rows) == 7
        torch.testing.assert_close(item.weights[0].double(), by_definition(model.config, own, bias), atol=1e-6, rtol=0)
    assert [item.layer for item in expert_maps(model, reading_of(ids), layers=[1, 2])] == [2]


def test_both_stacks():
    stack = {**SIZES, "mlp_layer_types": "dense, sparse"}
    config = TrineSeq2SeqConfig(encoder=stack, decoder=stack, decoder_start_token_id=1)
    model = TrineForConditionalGeneration(config).eval()
    encoder, decoder = expert_maps(model, reading_of(random_ids(1, 6), random_ids(1, 4)))
    assert (encoder.name, encoder.rows, decoder.name, decoder.rows) == (
        ("encoder experts", ["s"] * 6, "decoder experts", ["t"] * 4)
    )
    assert encoder.weights.shape == (1, 6, 4) and decoder.weights.shape == (1, 4, 4)


def test_models_without_experts():
    assert expert_maps(tiny_model(), reading_of(random_ids(1, 4))) == []
    assert expert_maps(tiny_recurrent(), reading_of(random_ids(1, 4), random_ids(1, 3))) == []


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece([" ".join(words) for words, _ in RECORDS], 150, show_progress=False)


def counts_by_hand(model, tokenizer, max_length):
    """Visits by (layer, tag, expert) and pieces by tag: record by record, without padding."""
    visits, pieces = Counter(), Counter()
    for words, tags in RECORDS:
        encoded = tokenizer(
            words, is_split_into_words=True, truncation=True, max_length=max_length, return_tensors="pt"
        )
        logits = model(encoded["input_ids"], output_router_logits=True).router_logits
        for place, word in enumerate(encoded.word_ids()):
            if word is not None:
                pieces[tags[word]] += 1
                for layer, own in zip((0, 2), logits, strict=True):
                    for expert in own[place].topk(2).indices.tolist():
                        visits[layer, tags[word], expert] += 1
    return visits, pieces


@pytest.mark.parametrize(("is_causal", "max_length"), [(True, 32), (False, 32), (False, 6)])
def test_shares_of_tags(tokenizer, is_causal, max_length):
    head = None if is_causal else TrineForMaskedLM
    model = tiny_model(head, **MIXED, is_causal=is_causal, vocab_size=len(tokenizer))
    maps, pieces = experts_by_tag(model, tokenizer, RECORDS, max_length=max_length, batch_size=2)
    visits, expected = counts_by_hand(model, tokenizer, max_length)
    assert pieces == {ALL: sum(expected.values()), **expected}
    for item in maps:
        assert item.name == "experts by tag" and item.rows == list(pieces)
        for tag, shares in zip(item.rows, item.weights[0], strict=True):
            tags = expected if tag == ALL else [tag]
            counted = [sum(visits[item.layer, each, expert] for each in tags) for expert in range(4)]
            total = 2 * pieces[tag]
            assert shares.tolist() == pytest.approx([count / total for count in counted], abs=1e-6)
    assert [item.layer for item in maps] == [0, 2]


def test_rare_tags_are_put_together(tokenizer):
    model = tiny_model(**MIXED, vocab_size=len(tokenizer))
    full, pieces = experts_by_tag(model, tokenizer, RECORDS, layers=[2])
    few, fewer = experts_by_tag(model, tokenizer, RECORDS, layers=[2], most_tags=2)
    assert list(fewer) == few[0].rows == [*full[0].rows[:3], REST]
    assert fewer[REST] == sum(pieces[tag] for tag in full[0].rows[3:])
    rest = sum(full[0].weights[0, row] * pieces[full[0].rows[row]] for row in range(3, len(pieces))) / fewer[REST]
    torch.testing.assert_close(few[0].weights[0, 3], rest)


def test_an_encoder_reads_the_words(tokenizer):
    stack = {**SIZES, "vocab_size": len(tokenizer), **MIXED}
    config = TrineSeq2SeqConfig(encoder=stack, decoder=stack, decoder_start_token_id=1)
    model = TrineForConditionalGeneration(config).eval()
    maps, _ = experts_by_tag(model, tokenizer, RECORDS)
    alone, _ = experts_by_tag(model.get_encoder(), tokenizer, RECORDS)
    assert [item.name for item in maps] == ["encoder experts by tag"] * 2
    assert all(torch.equal(a.weights, b.weights) for a, b in zip(maps, alone, strict=True))


def test_errors(tokenizer, monkeypatch):
    with pytest.raises(ValueError, match="no layer that reads the words is 'sparse'"):
        experts_by_tag(tiny_model(), tokenizer, RECORDS)
    model = tiny_model(**MIXED, vocab_size=len(tokenizer))
    with pytest.raises(ValueError, match=r"layers=\[1\] has \[1\], but the choices are \[0, 2\]"):
        experts_by_tag(model, tokenizer, RECORDS, layers=[1])
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(ValueError, match=r"The tokenizer, a \w+, cannot tell words from pieces"):
        experts_by_tag(model, tokenizer, RECORDS)
