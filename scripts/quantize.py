"""Quantise a checkpoint: weights of 8, 4 or 2 bits, loaded by transformers as before, or an ONNX graph of integers."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from trine.conversion.companions import find_source
from trine.conversion.quantization.quality import LONGEST, measure_quality
from trine.conversion.quantization.quantize import QUANTIZED, check_source, quantize, write_card
from trine.conversion.quantization.report import Report
from trine.conversion.quantization.schemes import GROUP_SIZE, SCHEMES
from trine.conversion.stream import check_free
from trine.scripts.arguments.parsing import INPUT_ERRORS, RECORDS_HELP, parse_arguments
from trine.scripts.convert import places_first
from trine.scripts.jobs.energy import energy_of_sides, energy_of_work
from trine.scripts.jobs.rounded_training import train_rounded
from trine.tokenization.text_files import PLAIN, iterate_text_files
from trine.training.measures.energy import EnergyMeter


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
    group_size: int = field(default=GROUP_SIZE, metadata={"help": "Of int4 and int2: the inputs that share a scale."})
    calibrate: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Texts on which source and target are compared: plain texts, each line by itself, or records with "
            f"a field 'text'; the first {MOST_TEXTS}, up to {LONGEST} tokens of each."
        },
    )
    qat_steps: int = field(
        default=0,
        metadata={"help": "Train a decoder for so many steps first, with its weights rounded as int4 or int2 do."},
    )
    files: list[str] = field(default_factory=list, metadata={"help": f"What to train on: plain texts. {RECORDS_HELP}"})
    text_field: str = field(default="text", metadata={"help": "Name of the text in a record of 'files'."})
    max_length: int = field(default=256, metadata={"help": "Tokens of a piece of text in training, at most."})
    batch_size: int = field(default=16, metadata={"help": "Pieces of a step of training."})
    learning_rate: float = field(
        default=1e-3, metadata={"help": "The largest of training; it falls to 0 along a line."}
    )
    seed: int = field(default=42, metadata={"help": "Of the texts that are drawn, and their order."})
    energy_country: str | None = field(
        default=None,
        metadata={
            "help": "Measure energy with codecarbon, offline: that of training and quantising with its CO2 in this "
            "country (DEU, USA, ...), and with 'calibrate' joules per 1,000 tokens of source and target."
        },
    )
    json: bool = field(default=False, metadata={"help": "Print everything as JSON in place of the table."})

    def __post_init__(self):
        if bool(self.qat_steps) != bool(self.files):
            raise ValueError(f"qat_steps={self.qat_steps} and files={self.files}: give both, or none.")
        for name, least in (("qat_steps", 0), ("max_length", 2), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate={self.learning_rate} must be a finite number above 0.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine quantize` with these arguments, by default the process's."""
    argv = places_first(list(sys.argv[1:] if argv is None else argv))
    (arguments,) = parse_arguments([QuantizeArguments], argv, command="quantize", description=__doc__)
    try:
        report = make(arguments)
    except (*INPUT_ERRORS, ImportError) as error:
        sys.exit(f"trine: {error}")
    if arguments.json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        print(f"{arguments.source} -> {arguments.target}", report.table(), *report.told(), sep="\n")


def make(arguments: QuantizeArguments) -> Report:
    """Trains if that is asked for, quantises, and measures what the arguments name.

    Raises:
        ValueError: As of `quantize`, `train_rounded` and `measure_quality`.
        OSError: Likewise.
        ImportError: Energy is to be measured, and codecarbon is not installed.
    """
    texts = read_texts(arguments.calibrate)
    meter = EnergyMeter(arguments.energy_country) if arguments.energy_country else None
    if meter:
        meter.start()
    report = train_and_quantize(arguments)
    if meter:
        report.quality |= energy_of_work(meter.stop())
    if texts:
        measure_quality(report, texts)
        if meter:
            report.quality |= energy_of_sides(report, texts, meter)
    write_card(Path(arguments.target), report)
    return report


def train_and_quantize(arguments: QuantizeArguments) -> Report:
    """The report of the quantised source, or of the source after training."""
    options = {name: getattr(arguments, name) for name in ("scheme", "embeddings", "group_size")}
    options["show_progress"] = not arguments.json
    if not arguments.qat_steps:
        return quantize(arguments.source, arguments.target, **options)
    check_free(Path(arguments.target))
    check_source(find_source(arguments.source), QUANTIZED)
    with TemporaryDirectory() as folder:
        trained = Path(folder) / "trained"
        figures = train_rounded(arguments.source, trained, arguments)
        report = quantize(trained, arguments.target, **options)
    report.source = arguments.source
    report.quality |= {f"{name} of training with rounded weights": value for name, value in figures.items()}
    return report


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
