"""Arguments of training rerankers: pairs, model and loss, and the trainer's own with other defaults."""

from dataclasses import dataclass, field

from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

from trine.configuration.patterns import check_choice
from trine.scripts.arguments.hard_negatives import HardNegativeArguments
from trine.scripts.arguments.pairs import RetrievalPairArguments
from trine.scripts.arguments.trainer import UsualTraining, trainer_default
from trine.scripts.jobs.reranker_losses import LOSSES


@dataclass
class RerankerArguments(RetrievalPairArguments):
    """Options of `trine train-reranker`: data, model and loss."""

    loss: str = field(
        default="lambda",
        metadata={
            "help": "'lambda': to put the positive above the negatives of its anchor, weighted by nDCG; "
            "'binary_cross_entropy': to tell for each text whether it is right; 'multiple_negatives_ranking': to find "
            "the positive among its negatives and one of another anchor."
        },
    )
    pooling: str | None = field(
        default=None,
        metadata={
            "help": "The vector of a pair that gives its score, where the model is Trine's: 'cls', 'mean' or 'last'. "
            "Default: that of its config."
        },
    )
    candidates: int = field(
        default=50, metadata={"help": "Texts that are ranked again for each held-out anchor, the best of a search."}
    )
    validation_queries: int = field(
        default=200, metadata={"help": "Held-out anchors that are validated with, at most; all texts can be found."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_choice("loss", self.loss, LOSSES)
        for name, least in (("candidates", 2), ("validation_queries", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")


@dataclass
class RerankerNegativeArguments(HardNegativeArguments):
    """Options of mining negatives for a reranker, which cannot do without."""

    hard_negatives: int = field(
        default=4, metadata={"help": "How many to mine for each pair among the other positives of 'files'."}
    )


@dataclass
class RerankerTrainingArguments(UsualTraining, CrossEncoderTrainingArguments):
    """The trainer's arguments with the usual values for rerankers."""

    _argument_group_name = "training (sentence_transformers.CrossEncoderTrainingArguments)"

    output_dir: str = trainer_default("output_dir", "outputs/reranker")
    num_train_epochs: float = trainer_default("num_train_epochs", 1.0)
    per_device_train_batch_size: int = trainer_default("per_device_train_batch_size", 16)
    per_device_eval_batch_size: int = trainer_default("per_device_eval_batch_size", 64)
    learning_rate: float = trainer_default("learning_rate", 5e-5)
    warmup_steps: float = trainer_default("warmup_steps", 0.1)
    weight_decay: float = trainer_default("weight_decay", 0.01)
