"""Train an encoder-decoder to summarise: on long texts and their short ones, such as descriptions of packages."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from trine.scripts.arguments.lora import OptionalLoraArguments
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.partial_training import PartialTrainingArguments
from trine.scripts.arguments.text_pairs import PairArguments, PairTrainingArguments
from trine.scripts.arguments.trainer import trainer_default
from trine.scripts.jobs.text_pairs import train_on_pairs


@dataclass
class SummarizerArguments(PairArguments):
    """Options of `trine train-summarizer`: data and model."""

    source_field: str = field(default="long", metadata={"help": "Name of the text that is read."})
    target_field: str = field(default="short", metadata={"help": "Name of its summary, which is written."})
    metrics: list[str] = field(
        default_factory=lambda: ["rouge"],
        metadata={
            "help": "Scores of what is written in the end (greedy, or --generation_num_beams): bleu, chrf, meteor, "
            "rouge."
        },
    )
    lead_words: int = field(
        default=8, metadata={"help": "The first words of a text that are scored as its summary, beside the model's."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.lead_words < 1:
            raise ValueError(f"lead_words={self.lead_words} must be at least 1.")


@dataclass
class SummarizerTrainingArguments(PairTrainingArguments):
    """The trainer's arguments with the usual values for a small encoder-decoder."""

    output_dir: str = trainer_default("output_dir", "outputs/summarizer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine train-summarizer` with these arguments, by default the process's."""
    types = [SummarizerArguments, PartialTrainingArguments, OptionalLoraArguments, SummarizerTrainingArguments]
    arguments, *others = parse_arguments(types, argv, command="train-summarizer", description=__doc__)
    lead = arguments.lead_words
    baselines = {f"first {lead} words": lambda text: " ".join(text.split()[:lead])}
    return train_on_pairs(arguments, *others, baselines=baselines)


if __name__ == "__main__":
    sys.exit(main())
