"""Lift a Trine checkpoint to another architecture that computes the same: simplicial, sparse, deeper, longer, ..."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from trine.configuration.patterns import check_choice
from trine.conversion.lifts.change import exact_length, largest_change
from trine.conversion.lifts.checkpoint import lift_checkpoint
from trine.conversion.lifts.encoder_decoder import EncoderDecoderLift
from trine.conversion.lifts.lift import check_option, option_names
from trine.conversion.lifts.table import LIFTS
from trine.modeling.modeling_trine import TrineModel
from trine.scripts.arguments.parsing import INPUT_ERRORS, load_plugins, named_plugins, parse_arguments, read_recipe
from trine.scripts.convert import places_first
from trine.tokenization.text_files import PLAIN, iterate_text_files


MOST_TEXTS = 64
LONGEST = 512  # tokens of a text up to which the outputs should stay, where that goes on, and beyond


@dataclass
class LiftArguments:
    """Options of `trine lift`."""

    source: str = field(metadata={"help": "Folder of a Trine checkpoint, or a name on the Hugging Face Hub."})
    target: str = field(metadata={"help": "Folder to write; it must not be there yet."})
    to: str = field(
        metadata={
            "help": f"What it becomes: one of {', '.join(LIFTS)}, or a kind of a plugin that says what it equals. "
            "Its options: trine lift --to KIND --help."
        }
    )
    sample_file: str | None = field(
        default=None,
        metadata={
            "help": "Texts on which the largest change of outputs is measured: a plain text, each line by itself, or "
            f"records with a field 'text'; the first {MOST_TEXTS}. Default: random tokens."
        },
    )
    seed: int = field(default=0, metadata={"help": "Of what is random in the lifted model."})
    max_shard_size: str = field(default="5GB", metadata={"help": "Largest weight file, such as 500MB."})


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine lift` with these arguments, by default the process's."""
    argv = places_first(list(sys.argv[1:] if argv is None else argv))
    try:
        kind = find_kind(argv)
        types = [LiftArguments] if kind is None else [LiftArguments, LIFTS[kind]]
        arguments, made = parse_arguments(types, argv, command="lift", description=__doc__)
        sample = Sample(arguments)
        torch.manual_seed(arguments.seed)
        model, lifted = lift_checkpoint(arguments.source, arguments.target, made, arguments.max_shard_size)
        print(f"{arguments.source} -> {arguments.target}")
        for line in describe_change(model, lifted, made, sample):
            print(line)
    except (*INPUT_ERRORS, ImportError) as error:
        sys.exit(f"trine: {error}")


def find_kind(argv: list[str]) -> str | None:
    """The lift that the arguments name, whose options are then allowed; None if they name none."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--to", "--recipe"):
        parser.add_argument(name)
    named = parser.parse_known_args(argv)[0]
    kind = named.to or (read_recipe(named.recipe).get("to") if named.recipe else None)
    if kind is None:
        return None
    load_plugins(named_plugins(argv))
    check_choice("to", kind, LIFTS)
    for word in argv:
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word.startswith("--") and any(name in option_names(other) for other in LIFTS):
            check_option(kind, name)
    return kind


class Sample:
    """The texts on which a change is measured: those of a file, or random tokens.

    Raises:
        OSError: There is no such file, or no tokenizer.
        ValueError: It cannot be read, or has no text.
    """

    def __init__(self, arguments: LiftArguments):
        self.name, self.texts, self.tokenizer = "random tokens", [], None
        if arguments.sample_file is None:
            return
        file = Path(arguments.sample_file)
        texts = (line for text in iterate_text_files([file]) for line in cut(text, file) if line.strip())
        self.name, self.texts = str(file), list(islice(texts, MOST_TEXTS))
        if not self.texts:
            raise ValueError(f"sample_file='{file}' has no text.")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(arguments.source)

    def change(self, made: Any, model: Any, lifted: Any, length: int, above: int = 0) -> float | None:
        """The largest change on texts of up to `length` tokens, of those with more than `above`; None without any."""
        if self.tokenizer is None:
            return made.measure(model, lifted, None, length)
        changes = []
        for text in self.texts:
            inputs = self.tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
            if inputs["input_ids"].shape[1] > above:
                changes.append(made.measure(model, lifted, dict(inputs), length))
        return torch.tensor(changes).max().item() if changes else None  # a NaN stays one


def cut(text: str, file: Path) -> list[str]:
    """The lines of a plain text; the text of a record as it is."""
    return text.splitlines() if file.suffix in PLAIN else [text]


def describe_change(model: Any, lifted: Any, made: Any, sample: Sample) -> Iterator[str]:
    """Lines that tell how much outputs change, up to the length at which they should not, and beyond it."""
    yield from made.describe(model, lifted)
    if not made.keeps_function:
        yield "The function changes: the model is to be trained on."
        return
    model = made.keeps(model)
    exact, most = exact_length(model, lifted, made), longest(model, lifted, made)
    inside = min(exact or LONGEST, most, LONGEST)
    change = sample.change(made, model, lifted, inside)
    yield f"Largest change of outputs on {sample.name}, texts of up to {inside} tokens: {change:.3g}"
    decoder = made.load_decoder(model.dtype) if isinstance(made, EncoderDecoderLift) else None
    if decoder is not None:
        yield f"Of the given decoder's logits, on random tokens: {largest_change(decoder, lifted):.3g}"
    if exact == 0:
        yield "The function changes at any length."
    elif exact is not None and exact < most:
        beyond = min(2 * exact, exact + LONGEST, most)
        change = sample.change(made, model, lifted, beyond, above=exact)
        found = "no text is so long" if change is None else f"{change:.3g}"
        yield f"Where the function changes, texts of {exact + 1} to {beyond} tokens: {found}"


def longest(model: Any, lifted: Any, made: Any) -> int:
    """Tokens of the longest text that both models take; without a limit, the length that they are meant for."""
    configs = [part.config for each in (model, lifted) for part in each.modules() if isinstance(part, TrineModel)]
    limits = [config.max_position_embeddings for config in configs if config.position_type == "learned"]
    wanted = getattr(made, "max_position_embeddings", None) or 0
    return min(limits, default=max(wanted, *(config.max_position_embeddings for config in configs)))


if __name__ == "__main__":
    main()
