"""Train a byte-level BPE tokenizer on text files."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from trine.scripts.arguments import parse_arguments


@dataclass
class TokenizerArguments:
    files: list[str] = field(
        metadata={"help": "Text files (.txt, .md, .rst, .jsonl) and folders of them; a folder is read at any depth."}
    )
    output_dir: str = field(metadata={"help": "Folder that gets the tokenizer."})
    text_field: str = field(default="text", metadata={"help": "Name of the text in a line of a .jsonl file."})
    vocab_size: int = field(default=32_000, metadata={"help": "Number of tokens, the special ones included."})
    min_frequency: int = field(default=2, metadata={"help": "How often a pair of tokens must occur to become one."})
    model_max_length: int | None = field(default=None, metadata={"help": "Tokens that the model takes, if limited."})
    extra_special_tokens: list[str] = field(
        default_factory=list, metadata={"help": "More tokens that are never split, such as the marks of chat roles."}
    )
    chat_template_file: str | None = field(default=None, metadata={"help": "Jinja file for chats."})


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse_arguments([TokenizerArguments], argv, command="train-tokenizer", description=__doc__)
    from trine.tokenization.text_files import iterate_text_files
    from trine.tokenization.training import train_byte_level_bpe

    chat_template = None
    if arguments.chat_template_file is not None:
        with open(arguments.chat_template_file, encoding="utf-8") as file:
            chat_template = file.read()
    try:
        tokenizer = train_byte_level_bpe(
            iterate_text_files(arguments.files, arguments.text_field),
            arguments.vocab_size,
            min_frequency=arguments.min_frequency,
            model_max_length=arguments.model_max_length,
            extra_special_tokens=arguments.extra_special_tokens,
            chat_template=chat_template,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"trine train-tokenizer: {error}")
    tokenizer.save_pretrained(arguments.output_dir)
    print(f"Saved a tokenizer of {len(tokenizer)} tokens to '{arguments.output_dir}'.")


if __name__ == "__main__":
    main()
