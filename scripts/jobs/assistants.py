"""Assistants: smaller models that draft tokens, of which the model itself keeps those that it would have written."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

import trine  # noqa: F401 - registers the models of this package with the Auto classes


# How many tokens an assistant drafts where nothing else is said: more pay only where nearly all are kept.
DRAFTED_TOKENS = 4


def load_assistant(name: str, tokenizer: PreTrainedTokenizerBase, model: Any, **settings: Any) -> Any:
    """An assistant that drafts for a model, on its device, in evaluation mode.

    Args:
        name: Folder or Hub id of a causal language model.
        tokenizer: The model's; the assistant's has to have its vocabulary.
        model: Whose device and size the assistant's are compared with.
        settings: Given to `from_pretrained`, such as `dtype`.

    Raises:
        OSError: The assistant cannot be read.
        ValueError: It has another vocabulary.
    """
    remote = {"trust_remote_code": settings.get("trust_remote_code", False)}
    try:
        other = AutoTokenizer.from_pretrained(name, **remote)
        assistant: Any = AutoModelForCausalLM.from_pretrained(name, **settings)
    except (OSError, ValueError) as error:
        raise type(error)(f"assistant_model='{name}' cannot be read: {error}") from error
    sizes = assistant.config.get_text_config().vocab_size, model.config.get_text_config().vocab_size
    if other.get_vocab() != tokenizer.get_vocab() or sizes[0] != sizes[1]:
        raise ValueError(
            f"assistant_model='{name}' has another vocabulary ({sizes[0]} tokens) than the model ({sizes[1]} tokens): "
            "take a student that `trine distill --objective logits` made of it."
        )
    return assistant.to(model.device).eval()


def set_drafts(assistant: Any, tokens: int) -> None:
    """Lets an assistant draft so many tokens each time, however probable they are and however many were kept."""
    if tokens < 1:
        raise ValueError(f"num_assistant_tokens={tokens} must be at least 1.")
    assistant.generation_config.num_assistant_tokens = tokens
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    assistant.generation_config.assistant_confidence_threshold = 0.0


class PassCounter:
    """Counts forward passes of a model within a `with` block."""

    def __init__(self, model: torch.nn.Module):
        self.model, self.count = model, 0

    def __enter__(self):
        self.handle = self.model.register_forward_pre_hook(self._add)
        return self

    def __exit__(self, *_):
        self.handle.remove()

    def _add(self, *_) -> None:
        self.count += 1
