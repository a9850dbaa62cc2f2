"""Arguments of all commands that train on pairs of a text to search with and a text to find."""

from dataclasses import dataclass, field

from trine.scripts.arguments.finetuning import FinetuneArguments


@dataclass
class RetrievalPairArguments(FinetuneArguments):
    """Options of training on pairs: the fields of the files."""

    validation_fraction: float = field(default=0.05, metadata={"help": "Share of the pairs that is held out."})
    anchor_field: str = field(default="anchor", metadata={"help": "Name of the text that is searched with."})
    positive_field: str = field(default="positive", metadata={"help": "Name of the text that is to be found."})
    negative_field: str | None = field(
        default=None, metadata={"help": "Name of a text that is not to be found, if there is one in each record."}
    )
