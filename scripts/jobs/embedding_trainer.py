"""The trainer of embeddings, with batches in which pairs of one group are each other's negatives."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.base.sampler import DefaultBatchSampler

from trine.training.data.distinct_batches import take_distinct
from trine.training.run.freezing import PartialTrainingMixin


class GroupedBatchSampler(DefaultBatchSampler):
    """Puts a few pairs of each group into one batch; no text is twice in a batch.

    Texts of one group, such as packages of one project, are alike, so that what tells them apart is learned, where
    among texts that are drawn at random the subject alone is enough. Groups are cut and drawn anew in each epoch.

    Args:
        dataset: As of sentence-transformers.
        groups: That of each row.
        together: Rows of one group in a batch, at most.
        options: Those of its base.
    """

    def __init__(self, dataset: Any, groups: Sequence[str], together: int, **options):
        super().__init__(dataset, **options)
        self.groups, self.together = groups, together
        self.texts = [{*row} for row in zip(*(dataset[name] for name in dataset.column_names), strict=True)]

    def __iter__(self) -> Iterator[list[int]]:
        if self.generator is not None and self.seed is not None:
            self.generator.manual_seed(self.seed + self.epoch)
        members: dict[str, list[int]] = {}
        shuffled: list[int] = torch.randperm(len(self.groups), generator=self.generator).tolist()
        for index in shuffled:
            members.setdefault(self.groups[index], []).append(index)
        starts = [(rows, start) for rows in members.values() for start in range(0, len(rows), self.together)]
        order = torch.randperm(len(starts), generator=self.generator).tolist()
        waiting = deque(
            index
            for place in order
            for rows, start in [starts[place]]
            for index in rows[start : start + self.together]
        )
        while waiting:
            batch = take_distinct(waiting, self.texts, self.batch_size)
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch


class EmbeddingTrainer(PartialTrainingMixin, SentenceTransformerTrainer):
    """The trainer of sentence-transformers with rates for layers, unfreezing and groups.

    Args:
        groups: That of each training example, for `GroupedBatchSampler`; none for the sampler of the arguments.
        together: Examples of one group in a batch, at most.
        args, kwargs: As of its bases.
    """

    def __init__(self, *args, groups: Sequence[str] = (), together: int = 2, **kwargs):
        self.groups, self.together = groups, together
        super().__init__(*args, **kwargs)

    def get_batch_sampler(self, dataset: Any, *args, **options) -> Any:
        """As of sentence-transformers, but for groups."""
        if self.groups and dataset is self.train_dataset:
            return GroupedBatchSampler(dataset, self.groups, self.together, **options)
        return super().get_batch_sampler(dataset, *args, **options)
