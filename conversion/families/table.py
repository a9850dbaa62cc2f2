"""The families that are converted, by transformers' `model_type`."""

from .bart import BART
from .base import Family
from .bert import BERT, ROBERTA, XLM_ROBERTA
from .clip import CLIP, SIGLIP
from .gpt2 import GPT2
from .llama import LLAMA, MISTRAL, QWEN3
from .mixtral import MIXTRAL, QWEN3_MOE
from .modernbert import MODERNBERT
from .t5 import T5
from .vit import VIT


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        BERT,
        ROBERTA,
        XLM_ROBERTA,
        MODERNBERT,
        GPT2,
        LLAMA,
        MISTRAL,
        QWEN3,
        MIXTRAL,
        QWEN3_MOE,
        T5,
        BART,
        VIT,
        CLIP,
        SIGLIP,
    )
}
