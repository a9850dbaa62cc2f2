"""Training with transformers' Trainer: data, objectives, callbacks, adapters and measures."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .adapters.lora import lora_targets, make_lora_config
    from .data.corpus import Corpus
    from .data.encoder_states import EncodedSources, EncodedSourcesCollator, encode_sources
    from .data.packing import PackedBlocks
    from .data.padding_free import PaddingFreeCollator
    from .data.token_store import TokenStore, read_tokens, write_tokens
    from .data.word_cache import TokenEncoder
    from .finetuning import FinetuneTrainer, hold_out, load_config_and_tokenizer, load_model
    from .measures.baselines import NgramLosses, NgramModel, ngram_losses
    from .measures.classification import class_metrics, confusion_matrix, f1_scores, label_set_metrics, value_metrics
    from .measures.energy import EnergyMeter, EnergyUse
    from .measures.intervals import bootstrap_interval, resampled_interval
    from .measures.perplexity import TextLosses, text_losses
    from .objectives.distillation.base import DistillationOptions
    from .objectives.distillation.table import DISTILLATION
    from .objectives.instructions import encode_completion, encode_conversation
    from .objectives.labels import LabelSet, OneClass, Value, find_problem
    from .objectives.masked_targets import MaskedTargetCollator
    from .objectives.masked_text import MaskedPairs, MaskedSequences, sentence_pieces, split_sentences
    from .objectives.pretraining import (
        OBJECTIVES,
        CausalObjective,
        MaskedObjective,
        NextSentenceObjective,
        ObjectiveOptions,
        SpanCorruptionObjective,
    )
    from .objectives.retrieval_vectors import RetrievalCollator, RetrievalTrainer, retrieval_loss
    from .objectives.sentence_pairs import sentence_pairs
    from .objectives.span_corruption import SpanCorruptionCollator
    from .objectives.whole_words import WholeWordMaskingCollator, WordEncoder
    from .objectives.word_labels import WordPieces
    from .run.callbacks import ExpertLoadCallback, InterruptCallback, RandomFeatureCallback, SpokenEarlyStopping
    from .run.distillation import DistillationTrainer
    from .run.flops import active_parameters, flops_per_token
    from .run.freezing import GradualUnfreezing, PartialTrainer, PartialTraining
    from .run.monitoring import EnergyCallback, ThroughputCallback
    from .run.muon import Muon, MuonFactory
    from .run.parallelism import Parallelism, make_model
    from .run.precision import bfloat16_instructions, check_half_precision, choose_precision
    from .run.resuming import find_checkpoint, list_checkpoints, train
    from .run.trainers import ScheduledSamplingTrainer, TrineSeq2SeqTrainer, TrineTrainer

__all__ = [
    "DISTILLATION",
    "OBJECTIVES",
    "CausalObjective",
    "Corpus",
    "DistillationOptions",
    "DistillationTrainer",
    "EncodedSources",
    "EncodedSourcesCollator",
    "EnergyCallback",
    "EnergyMeter",
    "EnergyUse",
    "ExpertLoadCallback",
    "FinetuneTrainer",
    "GradualUnfreezing",
    "InterruptCallback",
    "LabelSet",
    "MaskedObjective",
    "MaskedPairs",
    "MaskedSequences",
    "MaskedTargetCollator",
    "Muon",
    "MuonFactory",
    "NextSentenceObjective",
    "NgramLosses",
    "NgramModel",
    "ObjectiveOptions",
    "OneClass",
    "PackedBlocks",
    "PaddingFreeCollator",
    "Parallelism",
    "PartialTrainer",
    "PartialTraining",
    "RandomFeatureCallback",
    "RetrievalCollator",
    "RetrievalTrainer",
    "ScheduledSamplingTrainer",
    "SpanCorruptionCollator",
    "SpanCorruptionObjective",
    "SpokenEarlyStopping",
    "TextLosses",
    "ThroughputCallback",
    "TokenEncoder",
    "TokenStore",
    "TrineSeq2SeqTrainer",
    "TrineTrainer",
    "Value",
    "WholeWordMaskingCollator",
    "WordEncoder",
    "WordPieces",
    "active_parameters",
    "bfloat16_instructions",
    "bootstrap_interval",
    "check_half_precision",
    "choose_precision",
    "class_metrics",
    "confusion_matrix",
    "encode_completion",
    "encode_conversation",
    "encode_sources",
    "f1_scores",
    "find_checkpoint",
    "find_problem",
    "flops_per_token",
    "hold_out",
    "label_set_metrics",
    "list_checkpoints",
    "load_config_and_tokenizer",
    "load_model",
    "lora_targets",
    "make_lora_config",
    "make_model",
    "ngram_losses",
    "read_tokens",
    "resampled_interval",
    "retrieval_loss",
    "sentence_pairs",
    "sentence_pieces",
    "split_sentences",
    "text_losses",
    "train",
    "value_metrics",
    "write_tokens",
]

__getattr__, __dir__ = lazy_names(__name__)
