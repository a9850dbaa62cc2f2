"""Trine: one transformer family whose every part can be chosen, as ordinary Hugging Face models.

`import trine` registers the models with the Auto classes of transformers.
"""

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import transformers

# This module of transformers imports transformers anew and replaces `transformers` by the result. It must have done so
# before `register` sets attributes there.
import transformers.processing_utils
from transformers import AutoConfig
from transformers.models.auto import modeling_auto

from ._lazy import lazy_names
from ._version import __version__
from .configuration.configuration_trine import TrineConfig
from .configuration.configuration_trine_dual import TrineDualEncoderConfig
from .configuration.configuration_trine_image_text import TrineImageTextConfig
from .configuration.configuration_trine_recurrent import TrineRecurrentConfig
from .configuration.configuration_trine_seq2seq import TrineSeq2SeqConfig
from .modeling.caches.kernelized import KernelizedCacheLayer
from .modeling.caches.simplicial import SimplicialCacheLayer
from .modeling.caches.tokens import BigBirdCacheLayer, LSHCacheLayer
from .modeling.heads.causal_lm import TrineForCausalLM
from .modeling.heads.classification import (
    TrineForMultipleChoice,
    TrineForQuestionAnswering,
    TrineForSequenceClassification,
    TrineForTokenClassification,
)
from .modeling.heads.images import TrineForImageClassification, TrineForMaskedImageModeling
from .modeling.heads.masked_lm import TrineForMaskedLM, TrineForNextSentencePrediction, TrineForPreTraining
from .modeling.heads.retrieval import TrineForRetrieval
from .modeling.heads.seq2seq import TrineForConditionalGeneration
from .modeling.heads.seq2seq_classification import (
    TrineSeq2SeqForQuestionAnswering,
    TrineSeq2SeqForSequenceClassification,
    TrineSeq2SeqForTokenClassification,
)
from .modeling.heads.series import TrineForTimeSeriesPrediction
from .modeling.heads.sounds import TrineForAudioClassification
from .modeling.heads.table import HEADS, OTHER_HEADS, PATCH_HEADS, SEQ2SEQ_HEADS
from .modeling.masks.visibility import Visibility
from .modeling.modeling_trine import TrineModel, TrinePreTrainedModel
from .modeling.modeling_trine_dual import TrineDualEncoder
from .modeling.modeling_trine_image_text import TrineForImageTextToText
from .modeling.modeling_trine_recurrent import (
    RECURRENT_HEADS,
    TrineRecurrentForConditionalGeneration,
    TrineRecurrentModel,
)
from .modeling.modeling_trine_seq2seq import TrineSeq2SeqModel


if TYPE_CHECKING:
    from .configuration.kind_fields import KindField
    from .configuration.plugin_files import load_plugin
    from .conversion.convert import convert
    from .conversion.lifts.lift import lift
    from .conversion.programs.export import export
    from .modeling.attention.pairwise import PairwiseAttention
    from .modeling.attention.state import StateAttention
    from .modeling.caches.base import StatesCacheLayer
    from .modeling.feed_forward.routers import TrineRouter
    from .modeling.positions.base import PositionEncoding
    from .modeling.positions.biased import PositionBias
    from .modeling.registration import (
        register_attention,
        register_feed_forward,
        register_position,
        register_router,
    )
    from .tokenization.byte_level_bpe import train_byte_level_bpe
    from .tokenization.unigram import train_unigram
    from .tokenization.wordpiece import train_wordpiece


# transformers' caches know these by the types of layers, once they are imported: a cache may be made before a model.
CACHE_LAYERS = (BigBirdCacheLayer, KernelizedCacheLayer, LSHCacheLayer, SimplicialCacheLayer)
FAMILIES = (
    (TrineConfig, TrineModel, HEADS),
    (TrineSeq2SeqConfig, TrineSeq2SeqModel, SEQ2SEQ_HEADS),
    (TrineRecurrentConfig, TrineRecurrentModel, RECURRENT_HEADS),
)
# Models of several stacks, and the Auto classes that make them.
COMPOSED = (
    (TrineDualEncoderConfig, TrineDualEncoder, ("AutoModel", "AutoModelForZeroShotImageClassification")),
    (TrineImageTextConfig, TrineForImageTextToText, ("AutoModelForImageTextToText",)),
)
# Transformers' static tables of class names, by Auto class. `Trainer` looks a class up there before it shifts labels
# for label smoothing; a class that is missing is smoothed against the wrong tokens without a warning.
CLASS_NAMES = {
    "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
    "AutoModelForAudioClassification": modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForImageClassification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForImageTextToText": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    "AutoModelForMaskedImageModeling": modeling_auto.MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES,
    "AutoModelForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "AutoModelForMultipleChoice": modeling_auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    "AutoModelForNextSentencePrediction": modeling_auto.MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES,
    "AutoModelForPreTraining": modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    "AutoModelForQuestionAnswering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "AutoModelForSeq2SeqLM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTextEncoding": modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    "AutoModelForTimeSeriesPrediction": modeling_auto.MODEL_FOR_TIME_SERIES_PREDICTION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForZeroShotImageClassification": (modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES),
}


def register() -> None:
    """Makes the Auto classes, `Trainer` and `transformers serve` know Trine. Calling it again changes nothing.

    It runs on `import trine`, and is the entry point of vLLM's plugin group `vllm.general_plugins`.
    """
    families: list[tuple[Any, dict[str, Any]]] = [
        (config, dict.fromkeys(names, model)) for config, model, names in COMPOSED
    ]
    for config, base_model, heads in FAMILIES:
        encodes = {} if config is TrineRecurrentConfig else {"AutoModelForTextEncoding": base_model}
        patch_heads = PATCH_HEADS if config is TrineConfig else {}
        families.append((config, {"AutoModel": base_model, **encodes, **heads, **patch_heads}))
    for config, models in families:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        for auto_class, model in models.items():
            getattr(transformers, auto_class).register(config, model, exist_ok=True)
            CLASS_NAMES[auto_class][config.model_type] = model.__name__
            setattr(transformers, model.__name__, model)  # `transformers serve` looks architectures up as attributes
    for model in OTHER_HEADS:
        setattr(transformers, model.__name__, model)


register()

__all__ = [
    "KindField",
    "PairwiseAttention",
    "PositionBias",
    "PositionEncoding",
    "StateAttention",
    "StatesCacheLayer",
    "TrineConfig",
    "TrineDualEncoder",
    "TrineDualEncoderConfig",
    "TrineForAudioClassification",
    "TrineForCausalLM",
    "TrineForConditionalGeneration",
    "TrineForImageClassification",
    "TrineForImageTextToText",
    "TrineForMaskedImageModeling",
    "TrineForMaskedLM",
    "TrineForMultipleChoice",
    "TrineForNextSentencePrediction",
    "TrineForPreTraining",
    "TrineForQuestionAnswering",
    "TrineForRetrieval",
    "TrineForSequenceClassification",
    "TrineForTimeSeriesPrediction",
    "TrineForTokenClassification",
    "TrineImageTextConfig",
    "TrineModel",
    "TrinePreTrainedModel",
    "TrineRecurrentConfig",
    "TrineRecurrentForConditionalGeneration",
    "TrineRecurrentModel",
    "TrineRouter",
    "TrineSeq2SeqConfig",
    "TrineSeq2SeqForQuestionAnswering",
    "TrineSeq2SeqForSequenceClassification",
    "TrineSeq2SeqForTokenClassification",
    "TrineSeq2SeqModel",
    "Visibility",
    "__version__",
    "convert",
    "export",
    "lift",
    "load_plugin",
    "register",
    "register_attention",
    "register_feed_forward",
    "register_position",
    "register_router",
    "train_byte_level_bpe",
    "train_unigram",
    "train_wordpiece",
]

__getattr__, __dir__ = lazy_names(__name__)

if entry_points(group="trine.plugins"):
    from .configuration.plugin_files import load_entry_points

    load_entry_points()
