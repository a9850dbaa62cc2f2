"""Auto class to head class. Registration, the Hub's `auto_map` and the tests follow these tables."""

from .causal_lm import TrineForCausalLM
from .classification import (
    TrineForMultipleChoice,
    TrineForQuestionAnswering,
    TrineForSequenceClassification,
    TrineForTokenClassification,
)
from .images import TrineForImageClassification, TrineForMaskedImageModeling
from .masked_lm import TrineForMaskedLM, TrineForNextSentencePrediction, TrineForPreTraining
from .retrieval import TrineForRetrieval
from .seq2seq import TrineForConditionalGeneration
from .seq2seq_classification import (
    TrineSeq2SeqForQuestionAnswering,
    TrineSeq2SeqForSequenceClassification,
    TrineSeq2SeqForTokenClassification,
)
from .series import TrineForTimeSeriesPrediction
from .sounds import TrineForAudioClassification


HEADS = {
    "AutoModelForCausalLM": TrineForCausalLM,
    "AutoModelForMaskedLM": TrineForMaskedLM,
    "AutoModelForPreTraining": TrineForPreTraining,
    "AutoModelForNextSentencePrediction": TrineForNextSentencePrediction,
    "AutoModelForSequenceClassification": TrineForSequenceClassification,
    "AutoModelForTokenClassification": TrineForTokenClassification,
    "AutoModelForQuestionAnswering": TrineForQuestionAnswering,
    "AutoModelForMultipleChoice": TrineForMultipleChoice,
}

SEQ2SEQ_HEADS = {
    "AutoModelForSeq2SeqLM": TrineForConditionalGeneration,
    "AutoModelForSequenceClassification": TrineSeq2SeqForSequenceClassification,
    "AutoModelForTokenClassification": TrineSeq2SeqForTokenClassification,
    "AutoModelForQuestionAnswering": TrineSeq2SeqForQuestionAnswering,
}

# On models that read something else than tokens.
PATCH_HEADS = {
    "AutoModelForImageClassification": TrineForImageClassification,
    "AutoModelForMaskedImageModeling": TrineForMaskedImageModeling,
    "AutoModelForAudioClassification": TrineForAudioClassification,
    "AutoModelForTimeSeriesPrediction": TrineForTimeSeriesPrediction,
}

# transformers has no Auto class for these; sentence-transformers finds them by name.
OTHER_HEADS = (TrineForRetrieval,)
