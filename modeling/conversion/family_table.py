"""The families that are converted, by the library's `model_type`."""

from .bart_family import BART
from .bert_family import BERT, ROBERTA, XLM_ROBERTA
from .gpt2_family import GPT2
from .llama_family import LLAMA, MISTRAL, QWEN3
from .mixtral_family import MIXTRAL, QWEN3_MOE
from .modernbert_family import MODERNBERT
from .source_family import Family
from .t5_family import T5


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (BERT, ROBERTA, XLM_ROBERTA, MODERNBERT, GPT2, LLAMA, MISTRAL, QWEN3, MIXTRAL, QWEN3_MOE, T5, BART)
}
