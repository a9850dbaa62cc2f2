"""Chat templates by name: how a conversation is written as one text."""

from typing import NamedTuple

from ..configuration.patterns import suggest


class ChatTemplate(NamedTuple):
    """A chat template and its special tokens."""

    text: str  # Jinja, as `apply_chat_template` reads it
    marks: tuple[str, ...]  # the special tokens that the text writes


# A role and a message, each message closed. What the assistant says, with its closing mark, is marked as generated:
# `apply_chat_template(..., return_assistant_tokens_mask=True)` tells which tokens a model is to learn.
_CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else -%}"
    "{{ message['content'] + '<|im_end|>' }}"
    "{%- endif -%}"
    "{{ '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)

# Words in place of marks, for a vocabulary without them. Only the assistant's messages end with the token that ends
# texts: pretraining has taught that nothing before it matters.
_PLAIN = (
    "{{- bos_token or '' -}}"
    "{%- for message in messages -%}"
    "{{ message['role'] | capitalize + ':\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\n' }}"
    "{%- else -%}"
    "{{ message['content'] + '\n\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:\n' }}{%- endif -%}"
)

CHAT_TEMPLATES = {
    "chatml": ChatTemplate(_CHATML, ("<|im_start|>", "<|im_end|>")),
    "plain": ChatTemplate(_PLAIN, ()),
}


def find_chat_template(chat_template: str) -> ChatTemplate:
    """The template of that name, or the Jinja text that `chat_template` is itself.

    Raises:
        ValueError: it is neither.
    """
    if chat_template in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[chat_template]
    if "{" not in chat_template:
        raise ValueError(
            f"chat_template={chat_template!r} is neither Jinja text nor one of {list(CHAT_TEMPLATES)}."
            f"{suggest(chat_template, CHAT_TEMPLATES)}"
        )
    return ChatTemplate(chat_template, ())
