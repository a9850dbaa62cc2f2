"""Auto class to head class. Registration, the Hub's `auto_map` and the tests follow this table."""

from .causal_lm import TrineForCausalLM
from .classification import (
    TrineForMultipleChoice,
    TrineForQuestionAnswering,
    TrineForSequenceClassification,
    TrineForTokenClassification,
)
from .masked_lm import TrineForMaskedLM, TrineForNextSentencePrediction, TrineForPreTraining


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
