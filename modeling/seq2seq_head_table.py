"""Auto class to head class of an encoder-decoder, as in `head_table.py`."""

from .modeling_trine_seq2seq_classification import (
    TrineSeq2SeqForQuestionAnswering,
    TrineSeq2SeqForSequenceClassification,
    TrineSeq2SeqForTokenClassification,
)
from .modeling_trine_seq2seq_heads import TrineForConditionalGeneration


SEQ2SEQ_HEADS = {
    "AutoModelForSeq2SeqLM": TrineForConditionalGeneration,
    "AutoModelForSequenceClassification": TrineSeq2SeqForSequenceClassification,
    "AutoModelForTokenClassification": TrineSeq2SeqForTokenClassification,
    "AutoModelForQuestionAnswering": TrineSeq2SeqForQuestionAnswering,
}
