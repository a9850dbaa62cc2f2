"""Arguments of training embeddings: pairs, model and loss, and the trainer's own with other defaults."""

from dataclasses import dataclass, field

from sentence_transformers import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling

from trine.configuration.patterns import check_choice
from trine.scripts.arguments.finetuning import FinetuneArguments
from trine.scripts.arguments.trainer import UsualTraining, trainer_default


# The losses by name, and which of the arguments they take.
LOSSES = {
    "multiple_negatives_ranking": (MultipleNegativesRankingLoss, ("scale",)),
    "cached_multiple_negatives_ranking": (CachedMultipleNegativesRankingLoss, ("scale", "mini_batch_size")),
}


@dataclass
class EmbeddingArguments(FinetuneArguments):
    """Options of `trine train-embeddings`: data, model and loss."""

    validation_fraction: float = field(default=0.05, metadata={"help": "Share of the pairs that is held out."})
    anchor_field: str = field(default="anchor", metadata={"help": "Name of the text that is searched with."})
    positive_field: str = field(default="positive", metadata={"help": "Name of the text that is to be found."})
    negative_field: str | None = field(
        default=None, metadata={"help": "Name of a text that is not to be found, if there is one in each record."}
    )
    pooling: str | None = field(
        default=None,
        metadata={
            "help": f"What a text's embedding is, one of {', '.join(Pooling.POOLING_MODES)}. Default: that of a "
            "sentence-transformers model; else 'mean' for an encoder and 'lasttoken' for a decoder."
        },
    )
    loss: str = field(
        default="multiple_negatives_ranking",
        metadata={
            "help": "'multiple_negatives_ranking': to find the positive among all of the batch; "
            "'cached_multiple_negatives_ranking': the same for batches larger than the memory."
        },
    )
    scale: float = field(default=20.0, metadata={"help": "What the loss multiplies cosines by: 1 / temperature."})
    mini_batch_size: int = field(default=32, metadata={"help": "Texts that the cached loss computes at a time."})
    matryoshka_dims: list[int] = field(
        default_factory=list,
        metadata={"help": "Sizes to which embeddings can be cut off, the model's own among them: 256 128 64."},
    )
    random_weights: bool = field(
        default=False, metadata={"help": "Begin with random weights, to see what pretraining adds."}
    )
    bm25: bool = field(default=True, metadata={"help": "Compare with BM25, which needs bm25s."})

    def __post_init__(self):
        super().__post_init__()
        check_choice("loss", self.loss, LOSSES)
        if self.pooling is not None:
            check_choice("pooling", self.pooling, Pooling.POOLING_MODES)
        if self.scale <= 0:
            raise ValueError(f"scale={self.scale} must be above 0.")
        if self.mini_batch_size < 1:
            raise ValueError(f"mini_batch_size={self.mini_batch_size} must be at least 1.")


@dataclass
class EmbeddingTrainingArguments(UsualTraining, SentenceTransformerTrainingArguments):
    """The trainer's arguments with the usual values for embeddings."""

    _argument_group_name = "training (sentence_transformers.SentenceTransformerTrainingArguments)"

    output_dir: str = trainer_default("output_dir", "outputs/embeddings")
    num_train_epochs: float = trainer_default("num_train_epochs", 1.0)
    per_device_train_batch_size: int = trainer_default("per_device_train_batch_size", 64)
    per_device_eval_batch_size: int = trainer_default("per_device_eval_batch_size", 64)
    learning_rate: float = trainer_default("learning_rate", 1e-4)
    warmup_steps: float = trainer_default("warmup_steps", 0.1)
    weight_decay: float = trainer_default("weight_decay", 0.01)
    batch_sampler: str = field(
        default="no_duplicates",
        metadata={
            "help": "'no_duplicates': no text is twice in a batch, where it would count as its own negative; "
            "or 'batch_sampler', 'no_duplicates_hashed', 'group_by_label'."
        },
    )
