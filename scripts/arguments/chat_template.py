"""The option for the chat template of a tokenizer, shared by several commands."""

from dataclasses import field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trine.tokenization.chat_templates import CHAT_TEMPLATES, find_chat_template


CHAT_TEMPLATE: Any = field(
    default=None,
    metadata={"help": f"How chats are written: a Jinja file, or {', '.join(CHAT_TEMPLATES)}. By default the model's."},
)


def set_chat_template(tokenizer: PreTrainedTokenizerBase, choice: str) -> None:
    """Gives the tokenizer the template of that name or file.

    A named template may use marks that the tokenizer lacks. The vocabulary stays as it is: the mark that ends a
    message becomes the tokenizer's `eos_token`, so that answers end, and others are written as ordinary text.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is neither a file nor a name, or nothing would end a message.
    """
    is_file = Path(choice).is_file()
    text, marks = find_chat_template(Path(choice).read_text(encoding="utf-8") if is_file else choice)
    if marks and marks[-1] not in tokenizer.get_vocab():
        if tokenizer.eos_token is None:
            raise ValueError(
                f"chat_template='{choice}' ends a message with {marks[-1]!r}, which the tokenizer lacks, and it has "
                "no eos_token either: train one with `trine train-tokenizer --chat_template`, or give a file."
            )
        text = text.replace(f"'{marks[-1]}'", "eos_token")
    if "eos_token" in text and tokenizer.eos_token is None:
        raise ValueError(f"chat_template='{choice}' ends a message with the eos_token, which the tokenizer lacks.")
    tokenizer.chat_template = text
