"""Convert a checkpoint: BERT, GPT-2, Llama, Mixtral, T5 and their like to Trine, or Trine to one of them, exactly."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from trine import convert
from trine.conversion.families.table import FAMILIES
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments


@dataclass
class ConvertArguments:
    """Options of `trine convert`."""

    source: str = field(metadata={"help": "Folder with safetensors, or a name on the Hugging Face Hub."})
    target: str = field(metadata={"help": "Folder to write; it must not be there yet."})
    to: str | None = field(
        default=None, metadata={"help": f"What a Trine checkpoint becomes: one of {', '.join(FAMILIES)}."}
    )
    head: str | None = field(
        default=None,
        metadata={"help": "Class to read the source as, such as BertForPreTraining; by default what it names itself."},
    )
    leave_out: list[str] = field(
        default_factory=list, metadata={"help": "Tensors of the source that are not wanted: 'roberta.pooler.*'."}
    )
    check: bool = field(default=False, metadata={"help": "Load both, and print the largest difference of outputs."})
    max_shard_size: str = field(default="5GB", metadata={"help": "Largest weight file, such as 500MB."})


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine convert` with these arguments, by default the process's."""
    argv = places_first(list(sys.argv[1:] if argv is None else argv))
    (arguments,) = parse_arguments([ConvertArguments], argv, command="convert", description=__doc__)
    try:
        difference = convert(**vars(arguments), show_progress=True)
    except INPUT_ERRORS as error:
        sys.exit(f"trine: {error}")
    print(f"{arguments.source} -> {arguments.target}")
    if difference is not None:
        print(f"Largest difference of outputs, in float32 on random tokens: {difference:.3g}")


def places_first(argv: list[str]) -> list[str]:
    """Lets SOURCE and TARGET stand first, without their names."""
    if len(argv) > 1 and not argv[0].startswith("-") and not argv[1].startswith("-"):
        return ["--source", argv[0], "--target", argv[1], *argv[2:]]
    return argv


if __name__ == "__main__":
    main()
