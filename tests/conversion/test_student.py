"""Students begin with layers of their teacher, of the same or of other kinds, and say what they have of it."""

import pytest
import torch
from support.tiny import random_ids, tiny_config, tiny_model

from trine import TrineForConditionalGeneration, TrineForMaskedLM, TrineModel, TrineSeq2SeqConfig
from trine.conversion.lifts.student import describe_student, pick_layers, shrink, take_by_config


def translator(layers=4):
    sides = [tiny_config(is_causal=causal, num_hidden_layers=layers) for causal in (False, True)]
    config = TrineSeq2SeqConfig(encoder=sides[0], decoder=sides[1], pad_token_id=0, decoder_start_token_id=1)
    torch.manual_seed(0)
    return TrineForConditionalGeneration(config).eval()


@pytest.mark.parametrize(
    ("take", "number", "count", "layers"),
    [
        ("every second", 6, 12, [0, 2, 4, 7, 9, 11]),  # those of DistilBERT
        ("every second", None, 6, [0, 2, 5]),
        ("every second", 1, 6, [0]),
        ("first", 2, 6, [0, 1]),
        ("last", 2, 6, [4, 5]),
        ("0,3,5", None, 6, [0, 3, 5]),
        ("5 3", 2, 6, [5, 3]),
        ("4", 1, 6, [4]),
    ],
)
def test_layers_are_picked(take, number, count, layers):
    assert pick_layers(take, number, count) == layers


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny_model(num_hidden_layers=4, attention_types="sliding, full, linear, full"),
        lambda: tiny_model(TrineForMaskedLM, is_causal=False, num_hidden_layers=4),
        lambda: tiny_model(TrineModel, is_causal=False, num_hidden_layers=4),
    ],
    ids=["decoder", "masked", "encoder"],
)
def test_the_first_layers_compute_what_they_did(make):
    teacher, ids = make(), random_ids(2, 7)
    student = shrink(teacher, 2, "first")
    states = teacher(ids, output_hidden_states=True).hidden_states[:2]
    for mine, its in zip(student.model(ids, output_hidden_states=True).hidden_states, states, strict=False):
        assert torch.equal(mine, its)
    assert type(student.model) is type(teacher) and not student.random
    assert student.taken == sum(parameter.numel() for parameter in student.model.parameters())
    assert student.model.config.attention_types == teacher.config.attention_types[:2]


def test_stacks_of_an_encoder_decoder_shrink_together_or_alone():
    teacher = translator()
    both, decoder = shrink(teacher, 2).model, shrink(teacher, 1, "last", "decoder").model
    assert [len(both.model.encoder.layers), len(both.model.decoder.layers)] == [2, 2]
    assert [len(decoder.model.encoder.layers), len(decoder.model.decoder.layers)] == [4, 1]
    kept, last = decoder.model.decoder.layers[0].cross_attn.k_proj.weight, teacher.model.decoder.layers[3]
    assert torch.equal(kept, last.cross_attn.k_proj.weight)
    assert both(random_ids(1, 5), labels=random_ids(1, 3)).loss.isfinite()


def test_experts_begin_as_copies_and_other_kinds_with_what_fits():
    teacher, ids = tiny_model(num_hidden_layers=4), random_ids(1, 7)
    fields = {"mlp_layer_types": "sparse", "moe_intermediate_size": 40, "norm_topk_prob": True}
    sparse = shrink(teacher, 4, overrides=fields)
    torch.testing.assert_close(sparse.model(ids).logits, teacher(ids).logits)
    assert sparse.random == ["model.layers.*.mlp.gate.weight"]

    linear = shrink(teacher, 2, overrides={"attention_types": "linear"})
    assert linear.model.config.attention_types == ["linear", "linear"] and not linear.random
    assert torch.equal(linear.model.model.layers[1].mlp.up_proj.weight, teacher.model.layers[3].mlp.up_proj.weight)

    simplicial = shrink(teacher, 2, overrides={"attention_types": "simplicial"})
    assert any("second_k_proj" in name for name in simplicial.random)
    assert not any("mlp" in name or "q_proj" in name for name in simplicial.random)

    experts = shrink(
        tiny_model(num_hidden_layers=2, mlp_layer_types="sparse"), 2, overrides={"mlp_layer_types": "dense"}
    )
    assert {name.split(".")[3] for name in experts.random} == {"mlp"}


def test_a_config_of_its_own_takes_layers_or_begins_at_random():
    teacher = tiny_model(num_hidden_layers=4)
    config = tiny_config(num_hidden_layers=2, intermediate_size=20, attention_types="sliding")
    student = take_by_config(teacher, config, "1,2")
    assert torch.equal(
        student.model.model.layers[0].self_attn.q_proj.weight, teacher.model.layers[1].self_attn.q_proj.weight
    )
    assert {name.split(".")[3] for name in student.random} == {"mlp"}
    fresh = take_by_config(teacher, tiny_config(hidden_size=16))
    assert fresh.taken == 0 and fresh.model.config.hidden_size == 16
    assert shrink(teacher, 2, "none").taken == 0


def test_what_was_taken_is_told():
    teacher = tiny_model(num_hidden_layers=4)
    sizes = [sum(each.numel() for each in model.parameters()) for model in (teacher, shrink(teacher, 2).model)]
    lines = describe_student(teacher, shrink(teacher, 2))
    share = sizes[1] / sizes[0] - 1
    assert lines[0] == f"All: {sizes[0]:,} weights of the teacher, {sizes[1]:,} of the student ({share:+.1%})."
    assert lines[2:] == [
        "Layers taken from the teacher: 0, 3.",
        f"Weights taken from the teacher: {sizes[1]:,}, 100.0% of the student's.",
    ]
    assert describe_student(teacher, shrink(teacher, 2, "none"))[-1] == "Random weights: all."
    told = describe_student(translator(), shrink(translator(), 1, "last", "decoder"))
    assert told[2:4] == [
        "Layers taken from the teacher in encoder: 0, 1, 2, 3.",
        "Layers taken from the teacher in decoder: 3.",
    ]


ERRORS = {
    "more layers": (lambda t: shrink(t, 5), "student_layers=5 must be from 1 to 4, the layers of the teacher"),
    "no layers": (lambda t: shrink(t, 0), "student_layers=0 must be from 1 to 4"),
    "word": (
        lambda t: shrink(t, 2, "frist"),
        "take_layers='frist' is not one of .*'first', 'last'.*Did you mean 'first'",
    ),
    "place": (lambda t: shrink(t, 2, "0,4"), r"take_layers\[1\]=4 is no layer of the teacher, which has 0 to 3"),
    "numbers": (lambda t: shrink(t, 3, "0,1"), "take_layers='0,1' names 2 layers, but the student has 3"),
    "stack": (lambda t: shrink(t, 2, stack="decoder"), "stack='decoder', but TrineForCausalLM has one stack only"),
    "stack name": (lambda t: shrink(translator(), 2, stack="decdoer"), "stack='decdoer' is not one of"),
    "wider": (
        lambda t: shrink(t, 2, overrides={"hidden_size": 64}),
        "hidden_size=64 of the student differs from hidden_size=32 of the teacher, so that no layers can be taken",
    ),
    "vocabulary": (
        lambda t: take_by_config(t, tiny_config(vocab_size=70), "first"),
        "vocab_size=70 of the student differs from vocab_size=61 of the teacher",
    ),
    "field": (
        lambda t: shrink(t, 2, overrides={"attention_type": "full"}),
        "student_config_overrides: TrineConfig has no field 'attention_type'.*attention_types",
    ),
    "family": (
        lambda t: take_by_config(translator(), tiny_config()),
        "student has model_type='trine', but the teacher",
    ),
    "role": (
        lambda t: take_by_config(t, tiny_config(is_causal=False)),
        "student has is_causal=False, but the teacher",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_taken_is_refused(case):
    make, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        make(tiny_model(num_hidden_layers=4))
