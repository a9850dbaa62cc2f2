"""Named sampling settings, as `GenerationConfig`s."""

from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from ..configuration.patterns import check_choice, suggest


@dataclass(frozen=True)
class SamplingPreset:
    """Temperature divides the logits; then the `top_k` best tokens remain (0: all), and of these the best `top_p`."""

    temperature: float
    top_k: int
    top_p: float
    reason: str


SAMPLING_PRESETS = {
    "code": SamplingPreset(
        0.3, 10, 1.0, "One wrong token breaks a program, so little is left to chance; names may still vary."
    ),
    "factual": SamplingPreset(
        0.5,
        5,
        1.0,
        "What is likely is more often true; a few candidates keep the wording from going round in circles.",
    ),
    "dialogue": SamplingPreset(
        0.9, 0, 0.9, "Near the model's own distribution, as people talk, without the tail that makes an answer odd."
    ),
    "creative": SamplingPreset(
        1.3, 0, 0.92, "Flatter than the model's own distribution, for surprise; the nucleus keeps nonsense out of it."
    ),
}


def generation_preset(name: str, **overrides: Any) -> GenerationConfig:
    """The settings of a kind of text: `model.generate(**inputs, generation_config=generation_preset("code"))`.

    Sampling and its numbers are set, and what `overrides` says; everything else, special tokens too, stays what the
    model's own `generation_config` says. `SAMPLING_PRESETS` has the numbers and the reason for each. They are starting
    points for a trained model: the temperature ranges are the usual ones, the nucleus is that of Holtzman et al. 2019,
    arXiv 1904.09751.

    Args:
        name: "code", "factual", "dialogue" or "creative".
        overrides: Fields of `GenerationConfig` such as `max_new_tokens=200` or `temperature=0.2`.

    Raises:
        ValueError: There is no such preset, or no such field.
    """
    check_choice("name", name, SAMPLING_PRESETS)
    known = vars(GenerationConfig())
    for field in overrides:
        if field not in known:
            raise ValueError(f"GenerationConfig has no field {field!r}.{suggest(field, known)}")
    preset = SAMPLING_PRESETS[name]
    sampling = {"temperature": preset.temperature, "top_k": preset.top_k, "top_p": preset.top_p}
    return GenerationConfig(**{"do_sample": True, "num_beams": 1, **sampling, **overrides})
