"""Model, records and scores of `trine train-embeddings --outputs`, which trains several kinds of vectors."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from trine import TrineForRetrieval
from trine.retrieval.scores import DEPTH, Retrieval
from trine.scripts.jobs.finetuning import load_parts


# Options that are about a model with one vector per text.
ONE_VECTOR = ("pooling", "loss", "mini_batch_size", "matryoshka_dims", "random_weights", "group_field", "group_size")


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
                raise ValueError(
                    f"{name}={value!r} is for one vector per text; with outputs={arguments.outputs} leave it."
                )


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
    return TrineForRetrieval.from_pretrained(
        arguments.model,
        dtype="float32",
        retrieval_outputs=arguments.outputs,
        unscored_token_ids=tokenizer.all_special_ids,
    ), tokenizer


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
