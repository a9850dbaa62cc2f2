"""Trine: one transformer family whose every part can be chosen, as ordinary Hugging Face models.

`import trine` registers the models with the Auto classes of transformers.
"""

import transformers

# This module of the library imports the library anew and replaces `transformers` by the result. It must have done so
# before `register` sets attributes there.
import transformers.processing_utils
from transformers import AutoConfig, AutoModel
from transformers.models.auto import modeling_auto

from ._version import __version__
from .configuration.configuration_trine import TrineConfig
from .modeling.modeling_trine import TrineModel, TrinePreTrainedModel
from .modeling.modeling_trine_heads import HEADS, TrineForCausalLM
from .tokenization.training import train_byte_level_bpe


# The library's static tables of class names, by Auto class. `Trainer` looks a class up there before it shifts labels
# for label smoothing; a class that is missing is smoothed against the wrong tokens without a warning.
CLASS_NAMES = {
    "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}


def register() -> None:
    """Makes the Auto classes, `Trainer` and `transformers serve` know Trine. Calling it again changes nothing.

    It runs on `import trine`, and is the entry point of vLLM's plugin group `vllm.general_plugins`.
    """
    AutoConfig.register(TrineConfig.model_type, TrineConfig, exist_ok=True)
    AutoModel.register(TrineConfig, TrineModel, exist_ok=True)
    for auto_class, head in HEADS.items():
        getattr(transformers, auto_class).register(TrineConfig, head, exist_ok=True)
    for auto_class, model in {"AutoModel": TrineModel, **HEADS}.items():
        CLASS_NAMES[auto_class][TrineConfig.model_type] = model.__name__
        setattr(transformers, model.__name__, model)  # `transformers serve` looks architectures up as attributes


register()

__all__ = [
    "TrineConfig",
    "TrineForCausalLM",
    "TrineModel",
    "TrinePreTrainedModel",
    "__version__",
    "register",
    "train_byte_level_bpe",
]
