"""Attention maps are what the models return, for every shape, and name the tokens they belong to."""

import pytest
import torch
from support.recurrent import tiny_model as tiny_recurrent
from support.tiny import SIZES, random_ids, tiny_model
from transformers import BertConfig, BertModel

from trine import (
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineModel,
    TrineSeq2SeqConfig,
    train_unigram,
)
from trine.inspection.attention import NoWeights, Reading, WeightMap, alignment, attention_maps, read


KINDS = {"num_hidden_layers": 4, "attention_types": "full, simplicial, sliding, simplicial"}
TEXTS = ["the cat sat on the mat", "a dog saw the cat", "你 好 世 界"]


def reading_of(**inputs) -> Reading:
    names = {"input_ids": "s", "decoder_input_ids": "t"}
    labels = [[f"{names[name]}{i}" for i in range(ids.shape[1])] for name, ids in inputs.items()]
    return Reading(inputs, labels[0], labels[-1], [], [])


def tiny_translator(attn="eager", **fields):
    stack = {**SIZES, "attention_types": "simplicial, full", **fields}
    config = TrineSeq2SeqConfig(
        encoder=stack, decoder={**stack, "num_hidden_layers": 3}, attn_implementation=attn, decoder_start_token_id=1
    )
    torch.manual_seed(0)
    return TrineForConditionalGeneration(config).eval()


@pytest.mark.parametrize("head", [TrineForCausalLM, TrineForMaskedLM, TrineModel])
def test_one_stack(head):
    model = tiny_model(head, attn="eager", **KINDS, is_causal=head is not TrineForMaskedLM)
    ids = random_ids(1, 9)
    outputs = model(ids, output_attentions=True)
    maps = attention_maps(model, reading_of(input_ids=ids))
    first = [item for item in maps if item.name == "self-attention"]
    second = [item for item in maps if item.name == "self-attention (second keys)"]
    assert [item.layer for item in first] == [0, 1, 2, 3] and [item.layer for item in second] == [1, 3]
    assert [item.kind for item in first] == ["full", "simplicial", "sliding", "simplicial"]
    for item, expected in zip(first + second, (*outputs.attentions, *outputs.second_attentions), strict=True):
        assert item.rows == item.columns == [f"s{i}" for i in range(9)]
        assert torch.equal(item.weights, expected[0].float())
    model.train()
    some = attention_maps(model, reading_of(input_ids=ids), layers=[3, 0])
    assert all(module.training for module in model.modules())
    assert [(item.layer, item.name) for item in some] == [(0, first[0].name), (3, first[0].name), (3, second[0].name)]


def test_two_stacks():
    model = tiny_translator()
    inputs = {"input_ids": random_ids(1, 8), "decoder_input_ids": random_ids(1, 5)}
    outputs = model(**inputs, output_attentions=True)
    maps = attention_maps(model, reading_of(**inputs))
    expected = {
        "encoder self-attention": (outputs.encoder_attentions, "s", "s"),
        "encoder self-attention (second keys)": (outputs.encoder_second_attentions, "s", "s"),
        "decoder self-attention": (outputs.decoder_attentions, "t", "t"),
        "decoder self-attention (second keys)": (outputs.decoder_second_attentions, "t", "t"),
        "cross-attention": (outputs.cross_attentions, "t", "s"),
    }
    assert {item.name for item in maps} == expected.keys()
    for name, (weights, rows, columns) in expected.items():
        mine = [item for item in maps if item.name == name]
        assert len(mine) == len(weights) > 0
        for item, tensor in zip(mine, weights, strict=True):
            assert torch.equal(item.weights, tensor[0])
            assert (item.rows[0], item.columns[0]) == (f"{rows}0", f"{columns}0")
    assert [item.layer for item in maps if item.name == "cross-attention"] == [0, 1, 2]


def test_recurrent():
    model = tiny_recurrent("dot")
    inputs = {"input_ids": random_ids(1, 6, vocab_size=20), "decoder_input_ids": random_ids(1, 4, vocab_size=20)}
    (item,) = attention_maps(model, reading_of(**inputs))
    (expected,) = model(**inputs, output_attentions=True).cross_attentions
    assert (item.name, item.layer, item.weights.shape) == ("cross-attention", 0, (1, 4, 6))
    assert torch.equal(item.weights, expected[0].float())
    with pytest.raises(NoWeights, match="returned by cross-attention of layer 0. .* attention='none'; only 'dot'"):
        attention_maps(tiny_recurrent("none"), reading_of(**inputs))


def test_layers_without_weights_are_named():
    reading = reading_of(input_ids=random_ids(1, 5))
    model = tiny_model(attn="eager", **KINDS)
    model.model.layers[1].self_attn.register_forward_hook(lambda module, args, output: (output[0], None, None))
    message = (
        r"by self-attention of layer 1 \(simplicial\), self-attention \(second keys\) of layer 1 \(simplicial\): "
    )
    with pytest.warns(UserWarning, match=f"{message}left out"):
        maps = attention_maps(model, reading)
    assert {item.layer for item in maps} == {0, 2, 3}
    with pytest.raises(NoWeights, match="Attention of these kinds never computes any"):
        attention_maps(model, reading, layers=[1])
    with pytest.raises(NoWeights, match=r"layer 0 .* and 2 more. Load .* attn_implementation='eager'; it is 'sdpa'"):
        attention_maps(tiny_model(num_hidden_layers=6), reading)


def test_what_cannot_be_looked_at():
    reading = reading_of(input_ids=random_ids(1, 5))
    with pytest.raises(ValueError, match=r"layers=\[1, 4, 9\] has \[4, 9\], but the choices are \[0, 1, 2, 3\]"):
        attention_maps(tiny_model(attn="eager", **KINDS), reading, layers=[1, 4, 9])
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    with pytest.raises(ValueError, match=r"model_type='bert' is not one of \['trine', "):
        attention_maps(BertModel(BertConfig(vocab_size=61, **small)), reading)


def test_alignment_is_the_mean_of_cross_attention():
    torch.manual_seed(0)
    weights = torch.rand(2, 3, 4, 5).softmax(-1)
    tokens = [*"abcd"], [*"vwxyz"]
    maps = [WeightMap("cross-attention", layer, "full", *tokens, weights[layer]) for layer in range(2)]
    other = WeightMap("decoder self-attention", 0, "full", tokens[0], tokens[0], torch.ones(3, 4, 4))
    item = alignment([other, *maps], [*"bcde"])
    assert (item.name, item.kind, item.rows, item.columns) == (
        "alignment",
        "mean of layers 0, 1",
        [*"bcde"],
        tokens[1],
    )
    for row in range(4):
        for column in range(5):
            mean = sum(float(weights[i, j, row, column]) for i in range(2) for j in range(3)) / 6
            assert float(item.weights[0, row, column]) == pytest.approx(mean, abs=1e-6)
    with pytest.raises(ValueError, match="An alignment needs cross-attention"):
        alignment([other], [*"bcde"])


@pytest.fixture(scope="module")
def tokenizer():
    return train_unigram(TEXTS, 400, show_progress=False)


def test_what_a_decoder_reads(tokenizer):
    model = tiny_model(attn="eager", vocab_size=len(tokenizer))
    reading = read(model, tokenizer, "the cat")
    assert reading.inputs["input_ids"].tolist() == [tokenizer("the cat")["input_ids"]]
    assert reading.source == tokenizer.convert_ids_to_tokens(tokenizer("the cat")["input_ids"])
    assert reading.target == reading.predicted == []
    with pytest.raises(ValueError, match="target='x' needs an encoder-decoder; this is a TrineForCausalLM"):
        read(model, tokenizer, "the cat", "x")


def test_what_an_encoder_decoder_reads(tokenizer):
    model = tiny_translator(vocab_size=len(tokenizer))
    ids = tokenizer("a dog")["input_ids"]
    reading = read(model, tokenizer, "the cat", "a dog")
    assert reading.inputs["decoder_input_ids"].tolist() == [[1, *ids[:-1]]] and reading.predicted_ids == ids
    assert reading.predicted == tokenizer.convert_ids_to_tokens(ids)
    assert reading.target[1:] == reading.predicted[:-1]
    spoken = model.generate(reading.inputs["input_ids"], max_new_tokens=9)[0].tolist()
    reading = read(model, tokenizer, "the cat", max_length=9)
    assert reading.predicted_ids == spoken[1:] and reading.inputs["decoder_input_ids"].tolist() == [spoken[:-1]]


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        (" \n", None, "text=' .n' is empty"),
        ("a", "", "target='' is empty"),
        ("the cat sat on the mat", None, r"text has \d+ tokens, more than max_length=4: shorten it, or raise"),
        ("a", "the cat sat on the mat", r"target has \d+ tokens, more than max_length=4"),
    ],
)
def test_texts_that_cannot_be_read(tokenizer, text, target, message):
    with pytest.raises(ValueError, match=message):
        read(tiny_translator(vocab_size=len(tokenizer)), tokenizer, text, target, max_length=4)
