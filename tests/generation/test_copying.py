"""A pointer-generator writes in every way of decoding what the loop predicts, and what was copied is shown."""

import pytest
import torch
from support import reference
from support.pointers import SMALL, TOKENS, TOLERANCES, oracle_tensors, pointer_model, sources
from support.tiny import random_ids

from trine import TrineForConditionalGeneration, TrineSeq2SeqConfig
from trine.generation.ensembles.model import Ensemble
from trine.generation.mask_predict import MaskPredict
from trine.inspection.attention import Reading
from trine.inspection.copies import copy_map


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 2.0, "top_k": 12, "top_p": 0.9},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.6},
    "beam sampling": {"num_beams": 3, "do_sample": True, "temperature": 2.0},
    "no repeats": {"no_repeat_ngram_size": 2, "num_beams": 2},
}


def generate(model, inputs, **settings):
    torch.manual_seed(0)
    settings = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": None, **settings}
    return model.generate(**inputs, output_logits=True, return_dict_in_generate=True, **settings)


def assert_same(actual, expected) -> None:
    assert actual.sequences.tolist() == expected.sequences.tolist()
    for step, other in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(step, other, **TOLERANCES)


@pytest.mark.parametrize("name", ["rope", "two widths", "states"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", MODES)
def test_cached_equals_uncached(mode, side, name):
    model, (_, inputs) = pointer_model(name), sources(side)
    expected = generate(model, inputs, use_cache=False, **MODES[mode])
    assert_same(generate(model, inputs, **MODES[mode]), expected)
    assert len({tuple(row) for row in expected.sequences.tolist()}) > 1


def test_what_is_written_has_the_probabilities_of_one_pass():
    """Greedy tokens of a ragged batch are those of each source alone, and each is the likeliest by the loop."""
    model, (rows, inputs) = pointer_model("rope"), sources()
    written = generate(model, inputs)
    weights = reference.Weights(oracle_tensors(model))
    for index, (row, tokens) in enumerate(zip(rows, written.sequences.tolist(), strict=True)):
        log_probs = reference.pointer_log_probs(model.config, weights, row.tolist(), tokens[:-1])
        assert log_probs.argmax(dim=-1).tolist() == tokens[1:]
        for step, other in zip(written.logits, log_probs, strict=True):
            torch.testing.assert_close(step[index].double(), other.detach(), rtol=1e-5, atol=1e-5)


def test_static_caches_assistants_and_lookup_change_nothing():
    model, inputs = pointer_model("rope"), {"input_ids": random_ids(1, 9, vocab_size=9)}
    expected = generate(model, inputs, use_cache=False)
    assert_same(generate(model, inputs, cache_implementation="static"), expected)
    assert_same(generate(model, inputs, prompt_lookup_num_tokens=3), expected)
    assistant = pointer_model("rope")
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    assert_same(generate(model, inputs, assistant_model=assistant), expected)


@pytest.mark.parametrize("beams", [1, 3])
def test_states_of_an_encoder_serve_beside_the_ids(beams):
    model, (_, inputs) = pointer_model("two widths"), sources()
    expected = generate(model, inputs, num_beams=beams)
    states = model.get_encoder()(**inputs)
    assert_same(generate(model, {**inputs, "encoder_outputs": states}, num_beams=beams), expected)
    read = model.with_source(model.get_encoder()(**inputs), **inputs)
    mask = {"attention_mask": inputs["attention_mask"]}
    assert_same(generate(model, {"encoder_outputs": read, **mask}, num_beams=beams), expected)
    target = random_ids(3, 4, vocab_size=9)
    whole = model(**inputs, decoder_input_ids=target).logits
    for given in (states, (states.last_hidden_state,)):
        again = model(**inputs, encoder_outputs=given, decoder_input_ids=target).logits
        assert torch.equal(again, whole)
    kept = model(**inputs, decoder_input_ids=target, logits_to_keep=torch.tensor([1, 3])).logits
    torch.testing.assert_close(kept, whole[:, [1, 3]])
    mask = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]]).bool()
    torch.testing.assert_close(model(**inputs, decoder_input_ids=target, logits_to_keep=mask).logits, whole[mask])


# Through the package's own ways of decoding, and looked at


@pytest.mark.parametrize("beams", [1, 3])
def test_an_ensemble_of_two_is_their_mean(beams):
    """One of the members has no pointer."""
    first, second = pointer_model("rope"), pointer_model("two widths", pointer_size=None)
    _, inputs = sources()
    expected = generate(first, inputs, num_beams=beams)
    twice = generate(Ensemble([first, first]), inputs, num_beams=beams)
    assert twice.sequences.tolist() == expected.sequences.tolist()
    written = generate(Ensemble([first, second]), inputs, num_beams=beams)
    read = {**inputs, "decoder_input_ids": written.sequences[:, :-1][:3]}
    if beams == 1:
        chances = [model(**read).logits.softmax(dim=-1) for model in (first, second)]
        mean = (chances[0] + chances[1]) / 2
        for place, step in enumerate(written.logits):
            torch.testing.assert_close(step.exp(), mean[:, place], **TOLERANCES)


def test_mask_predict_copies():
    stack = {**SMALL, **TOKENS, "position_type": "learned"}
    torch.manual_seed(0)
    config = TrineSeq2SeqConfig(encoder=stack, decoder=stack, decoder_is_causal=False, pointer_size=8)
    model = TrineForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
        model.pointer.gate.bias.fill_(-30.0)  # only copies
    rows, inputs = sources()
    settings = MaskPredict(iterations=2, length_candidates=2, length_ratio=0.5, length_spread=1.0, mask_token_id=22)
    written = model.generate(**inputs, custom_generate=settings, max_new_tokens=12)
    for row, tokens in zip(rows, written[:, 1:].tolist(), strict=True):
        assert {*tokens} - {0, 2} and {*tokens} - {0, 2} <= {*row.tolist()}


def test_the_map_of_copies_is_that_of_the_loop():
    model, source, target = pointer_model("t5"), random_ids(6, vocab_size=9), [1, 4, 7, 5]
    ids = {"input_ids": source[None], "decoder_input_ids": torch.tensor([target[:-1]])}
    labels = [f"t{token}" for token in target]
    reading = Reading(ids, [f"s{token}" for token in source.tolist()], labels[:-1], labels[1:], target[1:])
    item, shares = copy_map(model, reading)
    weights = reference.Weights({name: tensor.detach() for name, tensor in oracle_tensors(model).items()})
    _, chances, attentions = reference.copy_attention(model.config, weights, source.tolist(), target[:-1])
    log_probs = reference.pointer_log_probs(model.config, weights, source.tolist(), target[:-1])
    torch.testing.assert_close(item.weights[0].double(), torch.stack(attentions), rtol=1e-5, atol=1e-6)
    assert (item.name, item.layer, item.columns) == ("copies", None, reading.source)
    for place, (share, token) in enumerate(zip(shares, target[1:], strict=True)):
        p_gen = float(chances[place])
        copied = sum(float(attentions[place][i]) for i, other in enumerate(source.tolist()) if other == token)
        assert share.token == f"t{token}" and item.rows[place] == f"{p_gen:.2f} t{token}"
        assert share.p_gen == pytest.approx(p_gen, abs=1e-6)
        assert share.copied == pytest.approx((1 - p_gen) * copied / float(log_probs[place, token].exp()), abs=1e-6)
    assert any(share.copied > 0 for share in shares)
    with pytest.raises(ValueError, match="TrineForConditionalGeneration copies nothing: its config needs pointer_si"):
        copy_map(pointer_model("t5", pointer_size=None), reading)
