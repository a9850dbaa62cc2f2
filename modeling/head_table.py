"""Auto class to head class. Registration, the Hub's `auto_map` and the tests follow this table."""

from .modeling_trine_causal_lm import TrineForCausalLM
from .modeling_trine_classification import (
    TrineForMultipleChoice,
    TrineForQuestionAnswering,
    TrineForSequenceClassification,
    TrineForTokenClassification,
)
from .modeling_trine_masked_lm import TrineForMaskedLM, TrineForNextSentencePrediction, TrineForPreTraining


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
