"""Decoding: presets, penalties, ensembles, constraints and translation."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .batching.generation_batch import GenerationBatch, GenerationRow
    from .constraints.processor import constrained_by
    from .coverage import CoverageBeamSearch
    from .ensembles.model import Ensemble, EnsembleConfig
    from .mask_predict import MaskPredict
    from .prefixes.prefix_cache import PrefixCache, PrefixCacheState
    from .presets import SAMPLING_PRESETS, SamplingPreset, generation_preset
    from .translation.metrics import METRICS, describe_scores, score_texts, sentence_chrf
    from .translation.post_processing import post_process
    from .translation.translator import Translation, Translator, known_languages

__all__ = [
    "METRICS",
    "SAMPLING_PRESETS",
    "CoverageBeamSearch",
    "Ensemble",
    "EnsembleConfig",
    "GenerationBatch",
    "GenerationRow",
    "MaskPredict",
    "PrefixCache",
    "PrefixCacheState",
    "SamplingPreset",
    "Translation",
    "Translator",
    "constrained_by",
    "describe_scores",
    "generation_preset",
    "known_languages",
    "post_process",
    "score_texts",
    "sentence_chrf",
]

__getattr__, __dir__ = lazy_names(__name__)
