"""Arguments of training embeddings: pairs, model and loss, and the trainer's own with other defaults."""

from dataclasses import dataclass, field

from sentence_transformers import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling

from trine.configuration.patterns import check_choice
from trine.configuration.retrieval_rules import RETRIEVAL_OUTPUTS
from trine.scripts.arguments.pairs import RetrievalPairArguments
from trine.scripts.arguments.trainer import UsualTraining, trainer_default
from trine.training.objectives.views import VIEWS


# The losses by name, and which of the arguments they take.
LOSSES = {
    "multiple_negatives_ranking": (MultipleNegativesRankingLoss, ("scale",)),
    "cached_multiple_negatives_ranking": (CachedMultipleNegativesRankingLoss, ("scale", "mini_batch_size")),
}

SPLADE = "splade"  # of outputs, alone
REGULARIZERS = {"query_regularizer_weight": 5e-5, "document_regularizer_weight": 3e-5}
SCALES = {True: 1.0, False: 20.0}  # by whether there are products of sparse vectors, or cosines


@dataclass
class EmbeddingArguments(RetrievalPairArguments):
    """Options of `trine train-embeddings`: data, model and loss."""

    text_field: str | None = field(
        default=None,
        metadata={
            "help": "Name of a text that is to find itself, where 'files' hold texts without pairs. The pairs of "
            "'validation_files' are what is scored."
        },
    )
    views: str = field(
        default="crops",
        metadata={
            "help": "How a text of text_field is read twice: 'crops', as two spans of its words (Contriever); "
            "'dropout', whole under two masks of dropout (SimCSE)."
        },
    )
    group_field: str | None = field(
        default=None,
        metadata={
            "help": "Name of a text that says which records are alike, such as those of one project: up to "
            "'group_size' of them come into one batch, where they are hard to tell apart. It takes the place of "
            "'batch_sampler', and no text is twice in a batch."
        },
    )
    group_size: int = field(default=4, metadata={"help": "Records of one group in a batch, at most."})
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
    scale: float | None = field(
        default=None,
        metadata={
            "help": "What the loss multiplies similarities by: 1 / temperature. Default: 20 for cosines, 1 for the "
            "products of outputs=splade."
        },
    )
    mini_batch_size: int = field(default=32, metadata={"help": "Texts that the cached loss computes at a time."})
    matryoshka_dims: list[int] = field(
        default_factory=list,
        metadata={"help": "Sizes to which embeddings can be cut off, the model's own among them: 256 128 64."},
    )
    random_weights: bool = field(
        default=False, metadata={"help": "Begin with random weights, to see what pretraining adds."}
    )
    outputs: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"Kinds of vectors to train together, some of {', '.join(RETRIEVAL_OUTPUTS)}: a "
            "TrineForRetrieval, by contrast on each and on their weighted sum, which teaches them (BGE-M3). Or "
            f"'{SPLADE}': weights for all tokens of the vocabulary by the model's head for masked tokens."
        },
    )
    query_regularizer_weight: float = field(
        default=REGULARIZERS["query_regularizer_weight"],
        metadata={
            "help": "With outputs=splade, the largest weight of the FLOPS loss of queries, which makes weights 0. It "
            "grows over the first third of the steps."
        },
    )
    document_regularizer_weight: float = field(
        default=REGULARIZERS["document_regularizer_weight"], metadata={"help": "Likewise of documents."}
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={"help": "With 'outputs', that of their new layers. By default as of all."},
    )
    bm25: bool = field(default=True, metadata={"help": "Compare with BM25, which needs bm25s."})

    def __post_init__(self):
        super().__post_init__()
        check_choice("loss", self.loss, LOSSES)
        if self.pooling is not None:
            check_choice("pooling", self.pooling, Pooling.POOLING_MODES)
        check_choice("views", self.views, VIEWS)
        self.outputs = [name for part in self.outputs for name in part.replace(",", " ").split()]
        for index, name in enumerate(self.outputs):
            check_choice(f"outputs[{index}]", name, [*RETRIEVAL_OUTPUTS, SPLADE])
        is_splade = SPLADE in self.outputs
        if is_splade and len(self.outputs) > 1:
            raise ValueError(f"outputs={self.outputs}: '{SPLADE}' needs a head of its own, and stands alone.")
        self.scale = SCALES[is_splade] if self.scale is None else self.scale
        if self.text_field is not None and not self.validation_files:
            raise ValueError(
                f"text_field='{self.text_field}' needs validation_files with pairs: a text alone does not say what it "
                "should find."
            )
        if self.text_field is not None and self.negative_field is not None:
            raise ValueError(
                f"negative_field='{self.negative_field}' belongs to pairs; with text_field='{self.text_field}' the "
                "other texts of a batch are what is not to be found."
            )
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale={self.scale} must be a finite number above 0.")
        self.check_heads(is_splade)
        for name, least in (("mini_batch_size", 1), ("group_size", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")

    def check_heads(self, is_splade: bool) -> None:
        """Raises a ValueError for options of heads that the outputs do not have, or that are out of range."""
        rate = self.head_learning_rate
        if rate is not None and (is_splade or not self.outputs):
            raise ValueError(
                f"head_learning_rate={rate} is that of the new layers of some of {list(RETRIEVAL_OUTPUTS)}, which "
                f"outputs={self.outputs} has not."
            )
        if rate is not None and not rate > 0:
            raise ValueError(f"head_learning_rate={rate} must be above 0.")
        for name, default in REGULARIZERS.items():
            weight = getattr(self, name)
            if weight != default and not is_splade:
                raise ValueError(f"{name}={weight} belongs to outputs=['{SPLADE}'], not to outputs={self.outputs}.")
            if not weight >= 0:
                raise ValueError(f"{name}={weight} must be at least 0.")


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
