"""Batches in which no text is twice, where it would be a wrong answer to its own query."""

from collections import deque
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

import torch
from torch.utils.data import BatchSampler


def take_distinct(waiting: deque[int], texts: Sequence[AbstractSet[str]], batch_size: int) -> list[int]:
    """Takes the first rows that have no text in common; the others wait on, in their order.

    Args:
        waiting: Numbers of rows, changed in place.
        texts: Those of each row.
        batch_size: The largest number of rows.
    """
    batch: list[int] = []
    left_out: list[int] = []
    taken: set[str] = set()
    while waiting and len(batch) < batch_size:
        index = waiting.popleft()
        if taken.isdisjoint(texts[index]):
            batch.append(index)
            taken |= texts[index]
        else:
            left_out.append(index)
    waiting.extendleft(reversed(left_out))
    return batch


class DistinctBatches(BatchSampler):
    """Draws rows anew in each epoch, so that no text is twice in a batch.

    Args:
        texts: Those of each row.
        batch_size: Rows in a batch; the last ones may have fewer.
        drop_last: Whether to leave out batches with fewer.
        seed: What is drawn depends on it and on the epoch.
    """

    def __init__(self, texts: Sequence[AbstractSet[str]], batch_size: int, drop_last: bool = False, seed: int = 0):
        super().__init__(range(len(texts)), batch_size, drop_last)
        self.texts, self.seed, self.epoch = texts, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Tells it which epoch comes."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        waiting = deque(torch.randperm(len(self.texts), generator=generator).tolist())
        while waiting:
            batch = take_distinct(waiting, self.texts, self.batch_size)
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch
