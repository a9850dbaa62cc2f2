"""Instructions as training examples: only what the model is to write has labels."""

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ...configuration.patterns import named_type
from ...modeling.losses import IGNORE_INDEX


Example = dict[str, list[int]]
Message = dict[str, Any]


def encode_completion(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> Example:
    """Tokens of a prompt and its completion, with labels on the completion and the token that ends it.

    The two are tokenised apart, so that the prompt has the tokens that it has when a model is to continue it.

    Raises:
        ValueError: The tokenizer has no token for the end.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("The tokenizer has no eos_token, by which a model tells that its completion is over.")
    before = list(tokenizer(prompt)["input_ids"])  # pyright: ignore[reportArgumentType] one text, one list
    if before[-1:] == [end] and tokenizer.bos_token_id != end:
        before = before[:-1]
    after = [*tokenizer(completion, add_special_tokens=False)["input_ids"], end]  # pyright: ignore[reportGeneralTypeIssues]
    return _labelled(before + after, [False] * len(before) + [True] * len(after))


def encode_conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Example:
    """Tokens of a conversation by the tokenizer's chat template, with labels on what the assistant says.

    Where the template marks that with `{% generation %}`, its marks count. Otherwise the conversation is rendered up
    to each of the assistant's messages, with the prompt for an answer, and once more with the message: what is added,
    less the white space at its end, is the assistant's.

    Raises:
        ValueError: No chat template, something that is no message, no message of the assistant, messages that the
            template refuses, or an unmarked template whose text of a conversation does not begin with its text of the
            first messages.
    """
    template = tokenizer.chat_template
    if template is None:
        raise ValueError("The tokenizer has no chat template, by which messages become text.")
    messages = [plain_message(message) for message in messages]
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("No message has the role 'assistant': there is nothing to learn.")
    try:
        if re.search(r"\{%-?\s*generation\s*-?%\}", str(template)):
            encoded: Any = tokenizer.apply_chat_template(
                list(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            return _labelled(encoded["input_ids"], encoded["assistant_masks"])
        text, spans = _render_unmarked(tokenizer, messages)
    except TemplateError as error:
        raise ValueError(f"The chat template refuses the messages: {error}") from error
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    mask = [any(first <= start < last for first, last in spans) for start, _ in encoded["offset_mapping"]]
    return _labelled(encoded["input_ids"], mask)


def plain_message(message: Any) -> Message:
    """The message with one text as its content; OpenAI's chats may have a list of parts, whose texts are joined.

    Raises:
        ValueError: It is no message, or has a part that is no text, such as a picture.
    """
    if not (isinstance(message, dict) and {"role", "content"} <= message.keys()):
        raise ValueError(f"{message!r} is not a message, which has 'role' and 'content'.")
    role, content = message["role"], message["content"]
    if not isinstance(role, str):
        raise ValueError(f"the 'role' of a message is {named_type(role)}, not a text.")
    parts = content if isinstance(content, list) else [content]
    texts: list[Any] = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part for part in parts
    ]
    for text in texts:
        if not isinstance(text, str):
            kind = f"part of type {text.get('type')!r}" if isinstance(text, dict) else type(text).__name__
            raise ValueError(f"the 'content' of a message of '{role}' holds a {kind}; only texts can be learned.")
    return {**message, "content": "".join(texts)}


def _labelled(input_ids: Sequence[int], mask: Sequence[int | bool]) -> Example:
    labels = [token if learned else IGNORE_INDEX for token, learned in zip(input_ids, mask, strict=True)]
    # Nothing tells the first token; and in a row of several texts, the text before it must not.
    return {"input_ids": list(input_ids), "labels": [IGNORE_INDEX, *labels[1:]]}


def _render_unmarked(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and where in it the assistant speaks: from character, up to character."""

    def render(count: int, asks: bool = False) -> str:
        return str(tokenizer.apply_chat_template(list(messages[:count]), tokenize=False, add_generation_prompt=asks))

    text, spans = render(len(messages)), []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = render(number, asks=True), render(number + 1)
        if not (text.startswith(after) and after.startswith(before)):
            raise ValueError(
                "The chat template has no {% generation %} marks, and writes earlier messages differently when later "
                "ones follow: what the assistant says cannot be told. Add the marks to the template."
            )
        spans.append((len(before), len(after.rstrip())))
    return text, spans
