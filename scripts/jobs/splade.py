"""Training of SPLADE: a head for masked tokens weighs all tokens of the vocabulary for a text, not only its own.

Source: Formal et al. 2021, SPLADE v2, arXiv 2109.10086.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformerTrainingArguments, SparseEncoder, SparseEncoderTrainer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.callbacks import SpladeRegularizerWeightSchedulerCallback
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import AutoModelForMaskedLM

from trine.retrieval.scores import DEPTH, Retrieval
from trine.scripts.jobs.cut_texts import count_cut_rows
from trine.scripts.jobs.finetuning import load_parts
from trine.scripts.jobs.vectors import make_dataset
from trine.training.new_heads import without_load_report
from trine.training.run.callbacks import RandomFeatureCallback


class SpladeTrainer(SparseEncoderTrainer):
    """The trainer of sentence-transformers for sparse vectors, with the arguments of that for dense ones."""

    training_args_class = SentenceTransformerTrainingArguments  # what is theirs alone is not read


class SpladeJob:
    """Model, trainer and scores of `trine train-embeddings --outputs splade`.

    Args:
        arguments: Those of the command.
        training: Those of its trainer.

    Raises:
        OSError: The model cannot be read.
        ValueError: The checkpoint has no head for masked tokens.
    """

    def __init__(self, arguments: Any, training: Any):
        self.arguments, self.training, self.figures = arguments, training, {}
        self.model = load_splade(arguments, "cpu" if training.use_cpu else None)

    def score(self, retrieval: Retrieval, row: str) -> dict[str, dict[str, np.ndarray]]:
        """Scores as of `Retrieval.measure`, under `row`; keeps how many weights of a text are not 0."""
        options: Any = {"batch_size": self.training.per_device_eval_batch_size}
        queries = self.model.encode_query([*retrieval.queries.values()], **options)
        documents = self.model.encode_document([*retrieval.corpus.values()], **options)
        scores, ids = self.model.similarity(queries, documents), [*retrieval.corpus]
        best = scores.topk(min(DEPTH, len(ids)), dim=-1)
        found = [
            [ids[place] for place, score in zip(*each, strict=True) if score > 0]
            for each in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        counts = [self.model.sparsity(vectors)["active_dims"] for vectors in (queries, documents)]
        self.figures.setdefault("active_dimensions", {})[row] = dict(zip(("query", "document"), counts, strict=True))
        return {row: retrieval.measure(found)}

    def trainer(self, train_pairs: Sequence[tuple[str, ...]], validation_pairs: Sequence[tuple[str, ...]]) -> Any:
        """The trainer for these pairs."""
        self.figures["truncated_pairs"] = count_cut_rows(
            self.model.tokenizer, train_pairs, validation_pairs, max_length=self.arguments.max_length
        )
        loss = SpladeLoss(
            self.model,
            SparseMultipleNegativesRankingLoss(self.model, scale=self.arguments.scale),
            document_regularizer_weight=self.arguments.document_regularizer_weight,
            query_regularizer_weight=self.arguments.query_regularizer_weight,
        )
        return SpladeTrainer(
            self.model,
            self.training,
            train_dataset=make_dataset(train_pairs),
            eval_dataset=make_dataset(validation_pairs),
            loss=loss,
            callbacks=[SpladeRegularizerWeightSchedulerCallback(loss), RandomFeatureCallback()],
        )

    def describe(self) -> str:
        """How many weights are not 0, of queries and documents, before and after."""
        counts = self.figures["active_dimensions"]
        rows = [
            f"{row} {each['query']:,.1f} of a query, {each['document']:,.1f} of a document"
            for row, each in counts.items()
        ]
        transformer: Any = self.model.transformers_model
        size = transformer.config.vocab_size
        return f"Weights that are not 0, of {size:,}: {'; '.join(rows)}."


def load_splade(arguments: Any, device: str | None = None) -> SparseEncoder:
    """The model with the pooling of SPLADE; its head comes from the checkpoint.

    Raises:
        OSError: It cannot be read.
        ValueError: The checkpoint has no such head, or lacks weights.
    """
    config, tokenizer = load_parts(arguments)
    code: dict[str, Any] = {"trust_remote_code": arguments.trust_remote_code}
    architectures = config.architectures or []
    refusal = (
        f"model='{arguments.model}' has no head for masked tokens, from which outputs={arguments.outputs} makes "
        f"weights: it is a {', '.join(architectures) or config.model_type}"
    )
    cure = "trine pretrain --objective masked --model trains one, outputs=['sparse'] needs none."
    try:
        with without_load_report():
            _, loading = AutoModelForMaskedLM.from_pretrained(
                arguments.model, output_loading_info=True, device_map="meta", **code
            )
    except ValueError as error:  # a decoder, or a model without such a class
        raise ValueError(f"{refusal}. {cure}") from error
    lacking = sorted({*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])})
    if lacking:
        raise ValueError(f"{refusal}, without {lacking[:3]}. {cure}")
    with without_load_report():
        transformer = Transformer(
            arguments.model,
            transformer_task="fill-mask",
            model_kwargs={"dtype": "float32", **code},
            config_kwargs=code,
            processor_kwargs=code,
        )
    tokenizer.model_max_length = arguments.max_length
    transformer.processor = tokenizer
    return SparseEncoder(modules=[transformer, SpladePooling("max")], device=device)
