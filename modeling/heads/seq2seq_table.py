"""Auto class to head class of an encoder-decoder, as in `head_table.py`."""

from .seq2seq import TrineForConditionalGeneration
from .seq2seq_classification import (
    TrineSeq2SeqForQuestionAnswering,
    TrineSeq2SeqForSequenceClassification,
    TrineSeq2SeqForTokenClassification,
)


SEQ2SEQ_HEADS = {
    "AutoModelForSeq2SeqLM": TrineForConditionalGeneration,
    "AutoModelForSequenceClassification": TrineSeq2SeqForSequenceClassification,
    "AutoModelForTokenClassification": TrineSeq2SeqForTokenClassification,
    "AutoModelForQuestionAnswering": TrineSeq2SeqForQuestionAnswering,
}
