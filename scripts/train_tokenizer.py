"""Train a tokenizer on text files: byte-level BPE, WordPiece or Unigram."""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments, unknown_name


@dataclass
class TokenizerArguments:
    """Options of `trine train-tokenizer`."""

    files: list[str] = field(
        metadata={"help": "Text files, records, folders of both and data sets, as trine pretrain reads them."}
    )
    output_dir: str = field(metadata={"help": "Folder that gets the tokenizer."})
    kind: str = field(
        default="byte-level-bpe",
        metadata={"help": "byte-level-bpe (as GPT), wordpiece (as BERT) or unigram (as T5)."},
    )
    text_field: str = field(default="text", metadata={"help": "Name of the text in a record."})
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records without a text, and report them, instead of stopping."}
    )
    vocab_size: int = field(default=32_000, metadata={"help": "Number of tokens, the special ones included."})
    min_frequency: int | None = field(
        default=None, metadata={"help": "How often a pair of tokens must occur to become one (2); not for unigram."}
    )
    pre_tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "How words are cut: trine, or as gpt-2, llama-3, qwen2 or qwen3.5 do, which llama.cpp knows; "
            "for byte-level-bpe only."
        },
    )
    lowercase: bool | None = field(
        default=None, metadata={"help": "Whether case and accents are ignored (true); for wordpiece only."}
    )
    model_max_length: int | None = field(default=None, metadata={"help": "Tokens that the model takes, if limited."})
    extra_special_tokens: list[str] = field(
        default_factory=list, metadata={"help": "More tokens that are never split, such as the marks of chat roles."}
    )
    language_tags: list[str] = field(
        default_factory=list, metadata={"help": "Languages of a translation model: 'en zh' gives <2en> and <2zh>."}
    )
    chat_template: str | None = field(
        default=None, metadata={"help": "Name of a chat template, such as chatml; its marks become special tokens."}
    )
    chat_template_file: str | None = field(default=None, metadata={"help": "Or a Jinja file for chats."})


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine train-tokenizer` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([TokenizerArguments], argv, command="train-tokenizer", description=__doc__)
    from trine.tokenization.text_files import iterate_text_files
    from trine.tokenization.training import TOKENIZERS

    try:
        if Path(arguments.output_dir).is_file():
            raise ValueError(f"output_dir='{arguments.output_dir}' is a file, not a folder.")
        if arguments.kind not in TOKENIZERS:
            raise ValueError(unknown_name("kind", arguments.kind, TOKENIZERS))
        tokenizer = TOKENIZERS[arguments.kind](
            iterate_text_files(arguments.files, arguments.text_field, skip_bad_records=arguments.skip_bad_records),
            arguments.vocab_size,
            model_max_length=arguments.model_max_length,
            extra_special_tokens=arguments.extra_special_tokens,
            language_tags=arguments.language_tags,
            chat_template=_read_chat_template(arguments),
            **_options_of_kind(arguments, TOKENIZERS[arguments.kind]),
        )
    except INPUT_ERRORS as error:
        sys.exit(f"trine train-tokenizer: {error}")
    tokenizer.save_pretrained(arguments.output_dir)
    print(f"Saved a tokenizer of {len(tokenizer)} tokens to '{arguments.output_dir}'.")


def _read_chat_template(arguments: TokenizerArguments) -> str | None:
    if arguments.chat_template_file is None:
        return arguments.chat_template
    if arguments.chat_template is not None:
        raise ValueError("--chat_template and --chat_template_file are both given.")
    return Path(arguments.chat_template_file).read_text(encoding="utf-8")


def _options_of_kind(arguments: TokenizerArguments, train) -> dict[str, object]:
    """The options that only some kinds have, where given."""
    given = {name: getattr(arguments, name) for name in ("min_frequency", "lowercase", "pre_tokenizer")}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() - inspect.signature(train).parameters.keys():
        raise ValueError(f"--{name} does not apply to --kind {arguments.kind}.")
    return given


if __name__ == "__main__":
    main()
