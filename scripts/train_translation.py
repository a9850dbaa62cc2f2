"""Train an encoder-decoder on pairs of texts, such as sentences and their translations."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from trine.scripts.arguments.lora import OptionalLoraArguments
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.partial_training import PartialTrainingArguments
from trine.scripts.arguments.text_pairs import PairArguments, PairTrainingArguments
from trine.scripts.arguments.trainer import trainer_default
from trine.scripts.jobs.text_pairs import train_on_pairs


@dataclass
class TranslationTrainingArguments(PairTrainingArguments):
    """The trainer's arguments with the usual values for a small translator."""

    output_dir: str = trainer_default("output_dir", "outputs/translator")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine train-translation` with these arguments, by default the process's."""
    types = [PairArguments, PartialTrainingArguments, OptionalLoraArguments, TranslationTrainingArguments]
    arguments, *others = parse_arguments(types, argv, command="train-translation", description=__doc__)
    return train_on_pairs(arguments, *others)


if __name__ == "__main__":
    sys.exit(main())
