"""Presets are what they say, and temperature, top-k and top-p do what their definitions say."""

import math

import pytest
import torch
from support.tiny import random_ids, tiny_model
from support.translators import tiny_translator
from transformers import LogitsProcessor, LogitsProcessorList

from trine.generation.presets import SAMPLING_PRESETS, generation_preset


# A known distribution over ten tokens; the others are impossible.
LOGITS = [3.1, 2.7, 2.2, 1.9, 1.2, 0.8, 0.1, -0.6, -1.4, -2.9]
SETTINGS = [
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 1},
    {"top_k": 4},
    {"top_k": 10},
    {"top_p": 0.3},
    {"top_p": 0.75},
    {"top_p": 0.999},
    {"top_p": 1.0},
    {"temperature": 0.7, "top_k": 6, "top_p": 0.8},
    {"temperature": 1.6, "top_k": 3, "top_p": 0.5},
    *({"preset": name} for name in SAMPLING_PRESETS),
]
DRAWS = 6000


class Known(LogitsProcessor):
    """Puts the known distribution, in an order that is not sorted, in place of the model's."""

    order = torch.randperm(len(LOGITS), generator=torch.Generator().manual_seed(5)) + 7

    def __call__(self, input_ids, scores):
        scores = torch.full_like(scores, -torch.inf)
        scores[:, self.order] = torch.tensor(LOGITS, dtype=scores.dtype)
        return scores


def definition(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, preset: str | None = None) -> list[float]:
    """The probabilities, for the tokens in the order of LOGITS, by the words of the definitions."""
    if preset is not None:
        found = SAMPLING_PRESETS[preset]
        temperature, top_k, top_p = found.temperature, found.top_k, found.top_p
    powers = [math.exp(logit / temperature) for logit in LOGITS]
    if top_k:
        powers = [power if index < top_k else 0.0 for index, power in enumerate(powers)]  # LOGITS is sorted
    kept, joint = 0, 0.0
    while joint < top_p and kept < len(powers):  # the fewest most likely tokens that reach top_p together
        joint += powers[kept] / sum(powers)
        kept += 1
    powers = [power if index < kept else 0.0 for index, power in enumerate(powers)]
    return [power / sum(powers) for power in powers]


def sample(settings: dict, draws: int = 1):
    """Tokens (draws,), and the probabilities that they were drawn with, in the order of LOGITS."""
    torch.manual_seed(0)
    settings = {"do_sample": True, "top_k": 0, "max_new_tokens": 1, "num_return_sequences": draws, **settings}
    if "preset" in settings:
        settings = {
            "generation_config": generation_preset(settings["preset"], max_new_tokens=1, num_return_sequences=draws)
        }
    outputs = tiny_model().generate(
        random_ids(1, 3),
        logits_processor=LogitsProcessorList([Known()]),
        **settings,
        output_scores=True,
        return_dict_in_generate=True,
    )
    return outputs.sequences[:, -1], outputs.scores[0][0].double().softmax(-1)[Known.order]


def chi_squared(counts: list[int], probabilities: list[float]) -> float:
    """How many standard deviations Pearson's statistic lies above what it is on average."""
    pairs = [(count, p * sum(counts)) for count, p in zip(counts, probabilities, strict=True) if p > 0]
    statistic, freedom = sum((count - mean) ** 2 / mean for count, mean in pairs), len(pairs) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom) if freedom else 0.0


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_scores_are_those_of_the_definition(settings):
    _, probabilities = sample(settings)
    expected = torch.tensor(definition(**settings), dtype=torch.float64)
    torch.testing.assert_close(probabilities, expected, rtol=1e-6, atol=1e-7)  # the library computes in float32


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_draws_follow_the_definition(settings):
    tokens, _ = sample(settings, DRAWS)
    counts = [(tokens == token).sum().item() for token in Known.order]
    expected = definition(**settings)
    assert sum(counts) == DRAWS, "a token was drawn that is impossible"
    assert all(count == 0 for count, p in zip(counts, expected, strict=True) if p == 0)
    assert chi_squared(counts, expected) < 4


def test_draws_of_another_temperature_are_told_apart():
    tokens, _ = sample({"temperature": 1.1}, DRAWS)
    counts = [(tokens == token).sum().item() for token in Known.order]
    assert chi_squared(counts, definition()) > 4 > chi_squared(counts, definition(temperature=1.1))


@pytest.mark.parametrize(
    ("name", "temperature", "top_k", "top_p"),
    [
        ("code", (0.2, 0.5), (1, 20), (1, 1)),
        ("factual", (0.3, 0.7), (5, 10), (1, 1)),
        ("dialogue", (0.8, 1.0), (0, 0), (0.85, 0.9)),
        ("creative", (1.2, 1.5), (0, 0), (0.9, 0.95)),
    ],
)
def test_presets_lie_in_the_usual_ranges_and_say_why(name, temperature, top_k, top_p):
    config, preset = generation_preset(name), SAMPLING_PRESETS[name]
    assert config.do_sample and config.num_beams == 1 and preset.reason.endswith(".")
    for (low, high), value in ((temperature, config.temperature), (top_k, config.top_k), (top_p, config.top_p)):
        assert low <= value <= high


@pytest.mark.parametrize("name", SAMPLING_PRESETS)
@pytest.mark.parametrize("make", [tiny_model, tiny_translator])
def test_the_models_own_tokens_stay(make, name):
    """Its end token stops a row, and its padding fills it; sampling is what the preset says."""
    model = make(eos_token_id=5, pad_token_id=4) if make is tiny_model else make()
    end, pad = model.generation_config.eos_token_id, model.generation_config.pad_token_id
    preset = generation_preset(name, max_new_tokens=40, num_return_sequences=8)
    numbers = {field: getattr(preset, field) for field in ("temperature", "top_k", "top_p")}
    inputs = {"input_ids": random_ids(1, 5), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    # The end token is made likely, so that rows end.
    inputs["logits_processor"] = LogitsProcessorList([Likely(end)])
    torch.manual_seed(0)
    actual = model.generate(**inputs, generation_config=preset)
    torch.manual_seed(0)
    expected = model.generate(
        **inputs, do_sample=True, num_beams=1, **numbers, max_new_tokens=40, num_return_sequences=8
    )
    assert torch.equal(actual, expected)
    rows = [row[6:] if make is tiny_model else row[1:] for row in actual.tolist()]
    ended = [row[row.index(end) + 1 :] for row in rows if end in row]
    assert any(ended) and all(set(rest) <= {pad} for rest in ended)


class Likely(LogitsProcessor):
    """Makes one token as likely as the best other one, nearly."""

    def __init__(self, token: int):
        self.token = token

    def __call__(self, input_ids, scores):
        scores[:, self.token] = scores.amax(-1) - 0.3
        return scores


def test_fields_can_be_overridden():
    config = generation_preset("code", temperature=0.2, max_new_tokens=7)
    assert (config.temperature, config.max_new_tokens, config.top_k) == (0.2, 7, 10)


def test_unknown_names_are_named():
    with pytest.raises(ValueError) as preset:
        generation_preset("creativ")
    choices = "['code', 'factual', 'dialogue', 'creative']"
    assert str(preset.value) == f"name='creativ' is not one of {choices}. Did you mean 'creative'?"
    with pytest.raises(ValueError) as field:
        generation_preset("code", temprature=0.2)
    assert str(field.value) == "GenerationConfig has no field 'temprature'. Did you mean 'temperature'?"
