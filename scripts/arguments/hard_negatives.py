"""Arguments of hard negatives, for all commands that train on pairs."""

from dataclasses import dataclass, field


@dataclass
class HardNegativeArguments:
    """Options of mining texts that are easily taken for a positive."""

    _argument_group_name = "hard negatives"

    hard_negatives: int = field(
        default=0, metadata={"help": "How many to mine for each pair among the other positives of 'files'."}
    )
    miner: str | None = field(
        default=None,
        metadata={
            "help": "Embedding model that finds them: folder or Hub id of a model of sentence-transformers, or of an "
            "encoder or decoder with its tokenizer. By default BM25 finds them."
        },
    )
    negatives_skip: int = field(
        default=0, metadata={"help": "How many of the best that are found to leave out, as they may be right, too."}
    )
    negatives_depth: int | None = field(
        default=None,
        metadata={
            "help": "Draw at random from so many of the best that are found. By default the best are taken, without "
            "drawing."
        },
    )
    negatives_margin: float = field(
        default=0.0,
        metadata={
            "help": "Leave out what scores above (1 - margin) times the positive's score, as it may be right, too; "
            "0.05 is usual. 0 leaves out nothing."
        },
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Where mined negatives are kept for the next run. By default below HF_HOME."}
    )

    def __post_init__(self):
        for name in ("hard_negatives", "negatives_skip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0.")
        if not 0 <= self.negatives_margin < 1:
            raise ValueError(f"negatives_margin={self.negatives_margin} must be from 0 to below 1.")
        least = self.negatives_skip + self.hard_negatives
        if self.negatives_depth is not None and self.negatives_depth < least:
            raise ValueError(
                f"negatives_depth={self.negatives_depth} must be at least {least}, negatives_skip and hard_negatives "
                "together."
            )
