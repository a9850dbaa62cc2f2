"""Model, records and scores of `trine train-embeddings --outputs`, which trains several kinds of vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from torch import nn

from trine import TrineForRetrieval
from trine.modeling.heads.retrieval_scores import SCORE_WEIGHTS
from trine.retrieval.scores import DEPTH, Retrieval
from trine.scripts.jobs.finetuning import load_parts
from trine.training.new_heads import describe_new_weights, without_load_report
from trine.training.objectives.retrieval_vectors import RetrievalCollator, RetrievalTrainer
from trine.training.run.callbacks import RandomFeatureCallback


# Options that are about a model with one dense vector per text, of sentence-transformers.
ONE_VECTOR = ("pooling", "loss", "mini_batch_size", "matryoshka_dims", "random_weights", "group_field", "group_size")
# What a new head weighs every token by at first: a text's words count from the start, where random weights leave out
# every second one, which then has no gradient.
FIRST_WEIGHT = 0.3


def check_options(arguments: Any, others: Sequence[Any]) -> None:
    """Raises a ValueError for an option that training several kinds of vectors does not read.

    Args:
        arguments: Those of the command.
        others: Further groups of options, none of which is read.
    """
    groups = [(arguments, ONE_VECTOR), *((group, [each.name for each in fields(group)]) for group in others)]
    for group, names in groups:
        defaults = {each.name: each for each in fields(group)}
        for name in names:
            value, each = getattr(group, name), defaults[name]
            default = each.default_factory() if callable(each.default_factory) else each.default
            if value != default:
                raise ValueError(f"{name}={value!r} is not read with outputs={arguments.outputs}: leave it.")


def load_vectors(arguments: Any) -> tuple[TrineForRetrieval, Any]:
    """The model with its tokenizer. Heads that the checkpoint lacks are new.

    Raises:
        ValueError: The checkpoint is not that of a Trine encoder.
        OSError: The model cannot be read.
    """
    config, tokenizer = load_parts(arguments)
    if config.model_type != "trine" or config.is_causal:
        role = "decoder" if getattr(config, "is_causal", False) else "model"
        raise ValueError(
            f"model='{arguments.model}' is a {role} of model_type='{config.model_type}', but "
            f"outputs={arguments.outputs} are those of a Trine encoder: trine convert makes one of a BERT, trine lift "
            "of a decoder."
        )
    tokenizer.model_max_length = arguments.max_length
    with without_load_report():
        model, loading = TrineForRetrieval.from_pretrained(
            arguments.model,
            dtype="float32",
            retrieval_outputs=arguments.outputs,
            unscored_token_ids=tokenizer.all_special_ids,
            output_loading_info=True,
        )
    if line := describe_new_weights(model, loading):
        print(line)
    if "sparse_linear.bias" in loading["missing_keys"]:
        nn.init.constant_(model.sparse_linear.bias, FIRST_WEIGHT)
    return model, tokenizer


class VectorJob:
    """Model, trainer and scores of `trine train-embeddings --outputs` for dense, sparse and multiple vectors.

    Args:
        arguments: Those of the command.
        training: Those of its trainer.

    Raises:
        OSError: The model cannot be read.
        ValueError: The checkpoint is not that of a Trine encoder.
    """

    def __init__(self, arguments: Any, training: Any):
        self.arguments, self.training, self.figures = arguments, training, {}
        self.model, self.tokenizer = load_vectors(arguments)

    def score(self, retrieval: Retrieval, row: str) -> dict[str, dict[str, np.ndarray]]:
        """Scores as of `score_vectors`; those after training also above those of the best single kind."""
        size = self.training.per_device_eval_batch_size
        scores = score_vectors(self.model, self.tokenizer, retrieval, row, size)
        return {**scores, **(above_best(scores, row) if row == "after" else {})}

    def trainer(self, train_pairs: Sequence[tuple[str, ...]], validation_pairs: Sequence[tuple[str, ...]]) -> Any:
        """The trainer for these pairs."""
        return RetrievalTrainer(
            self.model,
            self.training,
            RetrievalCollator(self.tokenizer, self.arguments.max_length),
            make_records(train_pairs),
            make_records(validation_pairs),
            processing_class=self.tokenizer,
            callbacks=[RandomFeatureCallback()],
            temperature=1 / self.arguments.scale,
            head_learning_rate=self.arguments.head_learning_rate,
            no_duplicates=self.training.batch_sampler != "batch_sampler",
        )

    def describe(self) -> str:
        """Nothing beside the scores."""
        return ""


COLUMNS = ("anchor", "positive")


def make_dataset(pairs: Sequence[tuple[str, ...]]) -> Any:
    """The pairs, with any number of negatives, as a data set of sentence-transformers."""
    from datasets import Dataset

    columns = [list(texts) for texts in zip(*pairs, strict=True)]
    names = [*COLUMNS, *(f"negative_{number}" for number in range(1, len(columns) - 1))]
    return Dataset.from_dict(dict(zip(names, columns, strict=True)))


def make_records(pairs: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    """Records for `RetrievalCollator` of an anchor, its positive and any number of negatives each."""
    return [{"query": pair[0], "positive": pair[1], "negatives": [*pair[2:]]} for pair in pairs]


def score_vectors(
    model: TrineForRetrieval, tokenizer: Any, retrieval: Retrieval, row: str, batch_size: int
) -> dict[str, dict[str, np.ndarray]]:
    """Scores as of `Retrieval.measure`: under `row` of the weighted sum, and where there are several of each kind.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        retrieval: Queries and documents.
        row: How the scores are called; `before_sparse` and so on are those of a kind.
        batch_size: The number of texts that are read at once.
    """
    options: Any = {f"return_{name}": name in model.config.retrieval_outputs for name in ("dense", "sparse")}
    options["return_multi_vector"] = "multi_vector" in model.config.retrieval_outputs
    options |= {"tokenizer": tokenizer, "batch_size": batch_size, "max_length": tokenizer.model_max_length}
    queries = model.encode([*retrieval.queries.values()], **options)
    found = queries.scores(model.encode([*retrieval.corpus.values()], **options))
    ids = [*retrieval.corpus]
    measured = {}
    for name, scores in found.items():
        best = scores.topk(min(DEPTH, len(ids)), dim=-1).indices.tolist()
        measured[name] = retrieval.measure([[ids[place] for place in places] for places in best])
    total = {row: measured.pop("sum")}
    return total | ({f"{row}_{name}": values for name, values in measured.items()} if len(measured) > 1 else {})


def above_best(scores: Mapping[str, Mapping[str, np.ndarray]], row: str) -> dict[str, dict[str, np.ndarray]]:
    """Returns one more row: the score of each query by the weighted sum, less that by the best single kind.

    Args:
        scores: As `score_vectors` returns them, and others.
        row: How those of the sum are called. Without several kinds there is no row.
    """
    kinds = [name for name in (f"{row}_{kind}" for kind in SCORE_WEIGHTS) if name in scores]
    if not kinds:
        return {}
    best = max(kinds, key=lambda name: scores[name]["ndcg@10"].mean())
    return {f"{row} - {best}": {name: each - scores[best][name] for name, each in scores[row].items()}}
