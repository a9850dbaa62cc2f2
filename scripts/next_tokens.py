"""Print the tokens that a model holds most probable after a text."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import trine  # noqa: F401 - registers the models of this package with the Auto classes
from trine.inspection.next_tokens import NextToken, next_token_probabilities
from trine.scripts.arguments.devices import check_device
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.arguments.text import read_standard_input, text_field


@dataclass
class NextTokensArguments:
    """Options of `trine next-tokens`."""

    model: str = field(
        metadata={
            "help": "Folder or Hub id of a causal language model, or of an encoder-decoder, which reads a source."
        }
    )
    text: list[str] = text_field("One or more texts; each gets a table.")
    k: int = field(default=5, metadata={"help": "Tokens in a table."})
    device: str | None = field(default=None, metadata={"help": "Such as cpu or cuda:1. By default the accelerator."})
    dtype: str = field(
        default="auto", metadata={"help": "Such as float32 or bfloat16. By default that of the weights."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model. Trine's own needs none."}
    )

    def __post_init__(self):
        check_device(self.device)
        if self.k < 1:
            raise ValueError(f"k={self.k} must be at least 1.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine next-tokens` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([NextTokensArguments], argv, command="next-tokens", description=__doc__)
    texts = arguments.text or [read_standard_input("a text")]
    remote = {"trust_remote_code": arguments.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(arguments.model, **remote)
        auto_class: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        tokenizer = AutoTokenizer.from_pretrained(arguments.model, **remote)
        model = auto_class.from_pretrained(arguments.model, dtype=arguments.dtype, **remote)
        model.to(arguments.device or torch.accelerator.current_accelerator() or "cpu").eval()
        tables = next_token_probabilities(model, tokenizer, texts, arguments.k)
    except INPUT_ERRORS as error:
        sys.exit(f"trine next-tokens: {error}")
    for text, rows in zip(texts, tables, strict=True):
        print(format_table(text, rows))


def format_table(prompt: str, rows: list[NextToken]) -> str:
    """A table of tokens, in quotes because spaces matter, with ids, probabilities and bars of up to 40 characters."""
    tokens = [repr(row.token) for row in rows]
    width = max(len(token) for token in tokens)
    lines = [
        f"{token:<{width}}  {row.id:>7}  {row.probability:8.3%}  {'#' * round(40 * row.probability)}".rstrip()
        for token, row in zip(tokens, rows, strict=True)
    ]
    return "\n".join([f"after {prompt!r}:", *lines, ""])


if __name__ == "__main__":
    main()
