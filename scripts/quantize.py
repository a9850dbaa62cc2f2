"""Quantise a checkpoint: weights of 8 or 4 bits, loaded by transformers as before, or an ONNX graph of integers."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from trine.conversion.quantization.quality import LONGEST, measure_quality
from trine.conversion.quantization.quantize import quantize, write_card
from trine.conversion.quantization.schemes import GROUP_SIZE, SCHEMES
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.convert import places_first
from trine.tokenization.text_files import PLAIN, iterate_text_files


MOST_TEXTS = 64


@dataclass
class QuantizeArguments:
    """Options of `trine quantize`."""

    source: str = field(metadata={"help": "Folder with a checkpoint of Trine, or a name on the Hugging Face Hub."})
    target: str = field(metadata={"help": "Folder to write; it must not be there yet."})
    scheme: str = field(
        default="int8", metadata={"help": "; ".join(f"{name}: {row.about}" for name, row in SCHEMES.items()) + "."}
    )
    embeddings: bool = field(
        default=False, metadata={"help": "Quantise embeddings of tokens and the head over the vocabulary, too."}
    )
    group_size: int = field(default=GROUP_SIZE, metadata={"help": "Of int4: the inputs that share a scale."})
    calibrate: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Texts on which source and target are compared: plain texts, each line by itself, or records with "
            f"a field 'text'; the first {MOST_TEXTS}, up to {LONGEST} tokens of each."
        },
    )
    json: bool = field(default=False, metadata={"help": "Print everything as JSON in place of the table."})


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine quantize` with these arguments, by default the process's."""
    argv = places_first(list(sys.argv[1:] if argv is None else argv))
    (arguments,) = parse_arguments([QuantizeArguments], argv, command="quantize", description=__doc__)
    try:
        texts = read_texts(arguments.calibrate)
        report = quantize(
            arguments.source,
            arguments.target,
            scheme=arguments.scheme,
            embeddings=arguments.embeddings,
            group_size=arguments.group_size,
            show_progress=not arguments.json,
        )
        if texts:
            measure_quality(report, texts)
            write_card(Path(arguments.target), report)
    except INPUT_ERRORS as error:
        sys.exit(f"trine: {error}")
    if arguments.json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        print(f"{arguments.source} -> {arguments.target}", report.table(), *report.told(), sep="\n")


def read_texts(files: Sequence[str]) -> list[str]:
    """The first texts of files.

    Raises:
        ValueError: They have none.
    """
    texts = list(islice(each_text(files), MOST_TEXTS))
    if files and not texts:
        raise ValueError(f"calibrate={[*files]} has no text.")
    return texts


def each_text(files: Sequence[str]) -> Iterator[str]:
    """The lines of plain texts, and records as they are."""
    for file in files:
        is_plain = Path(file).suffix in PLAIN
        for text in iterate_text_files([file]):
            yield from (line for line in (text.splitlines() if is_plain else [text]) if line.strip())


if __name__ == "__main__":
    main()
