"""Ensembles: one model twice is the model, different ones are the mean of theirs, in every way of decoding."""

import pytest
import torch
from support.tiny import GPT2, MIXED, SPARSE, random_ids, tiny_config, tiny_model
from support.translators import EOS, every_target, pad_rows, read, tiny_translator
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, TextStreamer

from trine import TrineForSequenceClassification, TrineModel
from trine.generation.coverage import CoverageBeamSearch
from trine.generation.ensembles.model import Ensemble


DECODERS = {
    "mixed": MIXED,
    "learned": GPT2,
    "sparse": SPARSE,
    "simplicial": {"attention_types": "simplicial"},
}
TRANSLATORS = ["transformer", "recurrent"]
MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 2.0, "top_k": 20, "top_p": 0.9, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
    "beam sampling": {"num_beams": 3, "do_sample": True, "temperature": 2.0},
    "uncached": {"use_cache": False},
}
DECODER_MODES = {**MODES, "static": {"cache_implementation": "static"}, "chunks": {"prefill_chunk_size": 4}}
ROWS = [random_ids(length, seed=length) for length in (11, 4, 9)]
NEW_TOKENS = 8
TOLERANCES = {"rtol": 1e-6, "atol": 1e-6, "check_dtype": False}


def generate(model, seed: int = 0, **settings):
    torch.manual_seed(seed)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "top_k": None, "pad_token_id": 0, **settings}
    return model.generate(**settings, output_logits=True, output_scores=True, return_dict_in_generate=True)


def assert_same(actual, expected) -> None:
    """Equal tokens, and equal probabilities in each step: logits may differ by a constant."""
    assert actual.sequences.tolist() == expected.sequences.tolist()
    for step, other in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(step.log_softmax(-1), other.log_softmax(-1), **TOLERANCES)


def several(name: str):
    """Two decoders or encoder-decoders of one kind, and a third of another."""
    if name in TRANSLATORS:
        other = TRANSLATORS[1 - TRANSLATORS.index(name)]
        return [
            tiny_translator(name),
            tiny_translator(name, seed=1, num_hidden_layers=1),
            tiny_translator(other, seed=2),
        ]
    return [tiny_model(**DECODERS[name]), tiny_model(seed=1, num_hidden_layers=1), tiny_model(seed=2, **MIXED)]


EVERY_PAIR = pytest.mark.parametrize(
    ("name", "mode"),
    [("mixed", mode) for mode in DECODER_MODES]
    + [(name, mode) for name in ("learned", "sparse", "simplicial") for mode in ("greedy", "beams", "static")]
    + [(name, mode) for name in TRANSLATORS for mode in MODES],
)


@EVERY_PAIR
def test_one_model_twice_is_the_model(name, mode):
    model, inputs, settings = several(name)[0], pad_rows(ROWS, "left"), DECODER_MODES[mode]
    expected = generate(model, **inputs, **settings)
    for average in ("probabilities", "log_probabilities"):
        actual = generate(Ensemble([model, model], [3, 1], average), **inputs, **settings)
        assert_same(actual, expected)
        if "num_beams" in settings:
            torch.testing.assert_close(actual.sequences_scores, expected.sequences_scores, **TOLERANCES)


@EVERY_PAIR
def test_different_models_keep_caches_of_their_own(name, mode):
    """Without caches nothing can go wrong with them."""
    ensemble, inputs = Ensemble(several(name), [0.5, 0.3, 0.2]), pad_rows(ROWS, "left")
    expected = generate(
        ensemble,
        **inputs,
        **{**DECODER_MODES[mode], "use_cache": False, "cache_implementation": None, "prefill_chunk_size": None},
    )
    assert_same(generate(ensemble, **inputs, **DECODER_MODES[mode]), expected)
    assert len(set(expected.sequences[:, -NEW_TOKENS:].flatten().tolist())) > 5, (
        "no repetition, which would hide errors"
    )


def mean_of(log_probs: list[torch.Tensor], weights: list[float], average: str) -> torch.Tensor:
    """The definitions, of probabilities in float64."""
    pairs = list(zip(weights, [one.double().exp() for one in log_probs], strict=True))
    if average == "probabilities":
        return sum(weight / sum(weights) * probs for weight, probs in pairs).log()
    product = torch.stack([probs ** (weight / sum(weights)) for weight, probs in pairs]).prod(0)
    return (product / product.sum(-1, keepdim=True)).log()


@pytest.mark.parametrize("average", ["probabilities", "log_probabilities"])
@pytest.mark.parametrize("name", ["mixed", "simplicial", "transformer", "recurrent"])
def test_greedy_takes_the_best_of_the_mean_probability(name, average):
    members, weights, ids = several(name), [2.0, 1.0, 4.0], ROWS[0][None]
    outputs = generate(Ensemble(members, weights, average), input_ids=ids)
    target = outputs.sequences[:, : outputs.sequences.shape[1] - NEW_TOKENS]
    for step in outputs.logits:
        with torch.no_grad():
            if name in TRANSLATORS:
                logits = [model(ids, decoder_input_ids=target, use_cache=False).logits[:, -1] for model in members]
            else:
                logits = [model(target, use_cache=False).logits[:, -1] for model in members]
        expected = mean_of([one.log_softmax(-1) for one in logits], weights, average)
        torch.testing.assert_close(step, expected, **TOLERANCES)
        target = torch.cat([target, expected.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(outputs.sequences, target)
    assert any(generate(model, input_ids=ids).sequences.tolist() != target.tolist() for model in members), (
        "the members do not differ"
    )


@pytest.mark.parametrize("average", ["probabilities", "log_probabilities"])
@pytest.mark.parametrize("penalty", [0.0, 0.8])
def test_wide_beams_find_the_best_of_all_sequences(penalty, average):
    """With coverage too: the attention is then the mean of the members'."""
    vocabulary, length, source = 5, 4, torch.tensor([3, 4, 3, 1, 0])
    fields = {"vocab_size": vocabulary, "attn": "eager"}
    members = [tiny_translator(kind, seed=seed, **fields) for seed, kind in enumerate(TRANSLATORS)]
    weights, targets = [0.6, 0.4], every_target(vocabulary, length)
    outputs = generate(
        Ensemble(members, weights, average),
        input_ids=source[None],
        num_beams=vocabulary * (vocabulary - 1) ** (length - 1),
        num_return_sequences=10,
        max_new_tokens=length,
        length_penalty=0.7,
        early_stopping="never",
        custom_generate=CoverageBeamSearch(penalty),
    )
    found = [read(model, source, targets) for model in members]
    log_probs = mean_of([log_probs for log_probs, _ in found], weights, average)
    attention = sum(weight * attention.mean(1) for weight, (_, attention) in zip(weights, found, strict=True))
    scores = []
    for row, target in enumerate(targets):
        log_prob = sum(log_probs[row, step, token].item() for step, token in enumerate(target))
        logs = attention[row, : len(target)].sum(0).clamp(max=1).log().sum().item()
        scores.append(log_prob / len(target) ** 0.7 + penalty * logs)
    best = sorted(zip(scores, targets, strict=True), reverse=True)[:10]
    sequences = [row[1:] for row in outputs.sequences.tolist()]
    assert [s[: s.index(EOS) + 1] if EOS in s else s for s in sequences] == [target for _, target in best]
    expected = torch.tensor([score for score, _ in best])
    torch.testing.assert_close(outputs.sequences_scores, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["mixed", "simplicial", "transformer"])
@pytest.mark.parametrize(
    "settings", [{"assistant_model": 0}, {"prompt_lookup_num_tokens": 3}], ids=["model", "lookup"]
)
def test_guessing_ahead_changes_nothing(settings, name):
    members = [tiny_translator(seed=seed) for seed in (0, 1)] if name == "transformer" else several(name)
    ensemble, passes = Ensemble(members, [8, *[1] * (len(members) - 1)]), []
    ids = ROWS[0][None]
    if "assistant_model" in settings:
        settings = {"assistant_model": members[0]}
    elif name != "transformer":  # a text that repeats, so that looking up finds something
        first = generate(ensemble, input_ids=ids).sequences
        ids = torch.cat([first, first[:, :13]], dim=1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = generate(ensemble, **inputs, use_cache=False)
    handle = ensemble.register_forward_pre_hook(lambda *args: passes.append(1))
    assert_same(generate(ensemble, **inputs, **settings), expected)
    handle.remove()
    assert len(passes) < NEW_TOKENS or name != "mixed", "nothing was guessed right"


def test_an_ensemble_streams(capsys):
    class Spelled:
        def decode(self, ids, **settings):
            return " ".join(map(str, ids)) + "\n"

    ensemble = Ensemble(several("mixed"))
    outputs = generate(ensemble, input_ids=ROWS[0][None], streamer=TextStreamer(Spelled(), skip_prompt=True))
    assert capsys.readouterr().out.split() == [str(token) for token in outputs.sequences[0, 11:].tolist()]


def test_a_returned_cache_can_be_continued():
    ensemble = Ensemble(several("mixed"))
    first = generate(ensemble, input_ids=ROWS[0][None], max_new_tokens=5)
    longer = torch.cat([first.sequences, ROWS[1][None]], dim=1)
    inputs = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    continued = generate(ensemble, **inputs, past_key_values=first.past_key_values)
    assert_same(continued, generate(ensemble, **inputs, use_cache=False))


def test_decoders_of_the_library_can_be_members():
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, **tokens, num_attention_heads=2)).double().eval()
    nn.init.normal_(llama.lm_head.weight)
    ensemble, inputs = Ensemble([tiny_model(), llama]), pad_rows(ROWS, "left")
    assert_same(generate(ensemble, **inputs, num_beams=3), generate(ensemble, **inputs, num_beams=3, use_cache=False))


def test_an_ensemble_trains_nothing_and_leaves_its_members_alone():
    member = tiny_model()
    before = {name: parameter.clone() for name, parameter in member.named_parameters()}
    ensemble = Ensemble([member, tiny_model(seed=1)])
    assert not ensemble.training and ensemble.device == member.device and ensemble.dtype == torch.float64
    assert all(torch.equal(before[name], parameter) for name, parameter in member.named_parameters())
    assert ensemble.members[0] is member


def test_half_precision_is_mixed_in_float32():
    ensemble = Ensemble([tiny_model(dtype=torch.bfloat16), tiny_model(dtype=torch.bfloat16, seed=1)])
    assert ensemble(ROWS[0][None]).logits.dtype == torch.float32


def _pair(**changes):
    return Ensemble([tiny_model(), tiny_model(**changes)])


def both_sides():
    model = tiny_translator()
    model.config.decoder_is_causal = False
    return model


ERRORS = {
    "empty": (lambda: Ensemble([]), "members is empty: an ensemble needs one model at least."),
    "headless": (
        lambda: Ensemble([tiny_model(), tiny_model(TrineModel)]),
        "members[1] is a TrineModel, which cannot generate.",
    ),
    "classifier": (
        lambda: Ensemble([tiny_model(TrineForSequenceClassification)]),
        "members[0] is a TrineForSequenceClassification, which cannot generate.",
    ),
    "other things": (lambda: Ensemble(["a name"]), "members[0] is a str, which cannot generate."),
    "prefixes": (
        lambda: Ensemble([tiny_model(), tiny_model(prefix_lm=True)]),
        "members[1] has prefix_lm=True, but an ensemble reads no prompt both ways.",
    ),
    "both sides": (
        lambda: Ensemble([tiny_translator(), both_sides()]),
        "members[1] has decoder_is_causal=False: it does not write token by token.",
    ),
    "shapes": (
        lambda: Ensemble([tiny_model(), tiny_translator()]),
        "members[1] has is_encoder_decoder=True, but members[0] has False.",
    ),
    "vocabularies": (lambda: _pair(vocab_size=62), "members[1] has vocab_size=62, but members[0] has 61."),
    "tokens": (lambda: _pair(eos_token_id=5), "members[1] has eos_token_id=5, but members[0] has None."),
    "weights": (
        lambda: Ensemble([tiny_model()], [0.5, 0.5]),
        "weights has 2 entries, but there are 1 members.",
    ),
    "negative": (
        lambda: Ensemble([tiny_model()] * 2, [1, -0.5]),
        "weights[1]=-0.5 must be a finite number above 0.",
    ),
    "average": (
        lambda: Ensemble([tiny_model()], average="median"),
        "average='median' is not one of ['probabilities', 'log_probabilities'].",
    ),
    "cache": (
        lambda: generate(Ensemble([tiny_model()]), input_ids=ROWS[0][None], past_key_values=DynamicCache()),
        "past_key_values is a DynamicCache, but must be the EnsembleCache of an earlier call.",
    ),
    "coverage": (
        lambda: generate(
            Ensemble([tiny_translator("recurrent", attention="none"), tiny_translator()]),
            input_ids=ROWS[0][None],
            num_beams=2,
            custom_generate=CoverageBeamSearch(0.2),
        ),
        "Ensemble returns no attention weights, from which coverage is counted. ",
    ),
    "stateful": (
        lambda: generate(Ensemble(several("recurrent")), input_ids=ROWS[0][None], prompt_lookup_num_tokens=3),
        "assisted generation is not supported with stateful models, such as Ensemble",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_does_not_fit_is_named(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_an_ensemble_is_not_saved(tmp_path):
    with pytest.raises(NotImplementedError, match="An ensemble is not saved: save its members"):
        Ensemble([tiny_model()]).save_pretrained(tmp_path)


def test_the_config_knows_the_shortest_member():
    ensemble = Ensemble([tiny_model(), tiny_model(max_position_embeddings=64)])
    assert ensemble.config.max_position_embeddings == 64 < tiny_config().max_position_embeddings
