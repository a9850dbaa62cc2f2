"""Train an encoder or a decoder to rank what a search has found again, on pairs with hard negatives."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from transformers import set_seed

from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.partial_training import PartialTrainingArguments
from trine.scripts.arguments.rerankers import (
    RerankerArguments,
    RerankerNegativeArguments,
    RerankerTrainingArguments,
)
from trine.scripts.jobs.hard_negatives import mine_rows
from trine.scripts.jobs.job import INTERRUPTED, bad_input_ends, begin, figures_of, save, train, write_report
from trine.scripts.jobs.pair_files import Pair, read_and_split
from trine.scripts.jobs.reranker_losses import LOSSES
from trine.scripts.jobs.rerankers import (
    Candidates,
    CandidatesEvaluator,
    RerankerTrainer,
    check_lengths,
    find_candidates,
    load_cross_encoder,
)
from trine.scripts.jobs.score_tables import describe, summarize
from trine.training.run.callbacks import RandomFeatureCallback


@dataclass
class Task:
    """Everything that training needs, and the figures of the data for metrics.json."""

    model: CrossEncoder
    train_rows: list[Pair]
    validation_rows: list[Pair]
    candidates: Candidates
    checkpoint: str | None
    metrics: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine train-reranker` with these arguments, by default the process's."""
    types = [RerankerArguments, RerankerNegativeArguments, PartialTrainingArguments, RerankerTrainingArguments]
    arguments, negatives, partial, training = parse_arguments(
        types, argv, command="train-reranker", description=__doc__
    )
    with bad_input_ends():
        task = prepare(arguments, negatives, partial, training)
    search = f"{negatives.miner or 'BM25'}, first {arguments.candidates}"
    trainer = RerankerTrainer(
        task.model,
        training,
        train_dataset=make_dataset(task.train_rows, arguments.loss),
        eval_dataset=make_dataset(task.validation_rows, arguments.loss) if task.validation_rows else None,
        loss=LOSSES[arguments.loss].make(task.model),
        evaluator=CandidatesEvaluator(task.candidates),
        callbacks=[RandomFeatureCallback()],
        partial=partial,
    )
    if not train(trainer, task.checkpoint, arguments.early_stopping_patience):
        return INTERRUPTED
    with torch.autocast(task.model.device.type, torch.bfloat16, enabled=training.bf16):
        after = task.candidates.scores(task.model)
    finish(trainer, task.metrics, {"search": task.candidates.first_scores(), "after": after}, search)
    return 0


def prepare(
    arguments: RerankerArguments,
    negatives: RerankerNegativeArguments,
    partial: PartialTrainingArguments,
    training: RerankerTrainingArguments,
) -> Task:
    """Read and split the pairs, load the model, mine negatives, and search for what is validated with.

    Raises:
        OSError: files or models that cannot be read, or an output folder that cannot be written.
        ValueError: arguments that are wrong or do not fit together, records that cannot be used, or a checkpoint
            that cannot give a pair one score.
    """
    if not negatives.hard_negatives and arguments.negative_field is None:
        raise ValueError("hard_negatives=0 needs a negative_field: without negatives every text would be right.")
    checkpoint = begin(training)
    train_pairs, _, validation_pairs, metrics = read_and_split(arguments, training.seed)
    set_seed(training.seed)
    device = "cpu" if training.use_cpu else None
    model = load_cross_encoder(arguments, device)
    partial.apply(model, processes=training.world_size)
    candidates = find_candidates(validation_pairs, arguments, negatives.miner, training.seed, device)
    asked = {*candidates.retrieval.queries.values()}
    validation_pairs = [pair for pair in validation_pairs if pair[0] in asked]
    corpus = [pair[1] for pair in train_pairs]  # which holds enough for a few validation pairs, too
    options: dict[str, Any] = {"seed": training.seed, "device": device}
    if training.eval_strategy == "no":
        validation_pairs = []  # of no loss, for which negatives would be searched
    rows = [
        add_negatives(pairs, negatives, corpus, {**options, "trust_remote_code": arguments.trust_remote_code})
        for pairs in (train_pairs, validation_pairs)
    ]
    metrics["truncated_texts"] = check_lengths(model, rows[0], arguments.max_length)
    metrics |= {"validation_queries": len(asked), "candidates": arguments.candidates}
    metrics |= {"found_by_search": candidates.found_share()}
    return Task(model, rows[0], rows[1], candidates, checkpoint, metrics)


def add_negatives(
    pairs: Sequence[Pair], negatives: RerankerNegativeArguments, corpus: Sequence[str], options: Mapping[str, Any]
) -> list[Pair]:
    """Rows of anchor, positive, the negative of the record if it has one, and those that are mined."""
    if not negatives.hard_negatives or not pairs:
        return [*pairs]
    mined = mine_rows(pairs, negatives, corpus=corpus, **options).rows
    return [(*pair, *row[2:]) for pair, row in zip(pairs, mined, strict=True)]


def make_dataset(rows: Sequence[Pair], loss: str) -> Any:
    """The rows as a data set of sentence-transformers for this loss."""
    from datasets import Dataset

    return Dataset.from_dict(LOSSES[loss].columns(rows))


def finish(
    trainer: RerankerTrainer,
    metrics: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, np.ndarray]],
    search: str,
) -> None:
    """Save, draw, and print the scores beside each other."""
    parameters = sum(each.numel() for each in trainer.model.parameters())
    metrics = {**summarize(scores, "search"), **metrics, "parameters": parameters, **figures_of(trainer)}
    folder = save(trainer)
    if folder is None:
        return
    write_report(trainer, folder, metrics, unit="of the loss")
    print(f"\nSearch by {search}; the right text is among them for {metrics['found_by_search']:.1%} of the anchors.")
    print(describe({**metrics, "validation_pairs": metrics["validation_queries"]}))


if __name__ == "__main__":
    sys.exit(main())
