"""Batches of groups: each row once an epoch, a few of a group at a time, no text twice, and other ones each epoch."""

from collections import Counter

import torch
from datasets import Dataset

from trine.scripts.jobs.embedding_trainer import GroupedBatchSampler


GROUPS = [f"g{number // 5}" for number in range(60)]


def make_sampler(texts, batch_size=8, drop_last=False, seed=0):
    rows = {"anchor": [f"question {number}" for number in range(60)], "positive": texts}
    options = {"batch_size": batch_size, "drop_last": drop_last, "generator": torch.Generator(), "seed": seed}
    return GroupedBatchSampler(Dataset.from_dict(rows), GROUPS, 2, **options)


def test_rows_of_a_group_are_in_one_batch_two_at_a_time():
    sampler = make_sampler([f"answer {number}" for number in range(60)])
    batches = [*sampler]
    assert sorted(sum(batches, [])) == [*range(60)] and {*map(len, batches)} == {8, 4}
    assert len(batches) == len(sampler) == 8
    in_twos = sum(Counter(GROUPS[index] for index in batch)[group] >= 2 for batch in batches for group in {*GROUPS})
    assert in_twos >= 20  # of 24 twos a few are cut by the end of a batch; by chance there would be some 11
    assert [*sampler] == batches
    sampler.set_epoch(1)
    assert [*sampler] != batches and sorted(sum(sampler, [])) == [*range(60)]


def test_no_text_is_twice_in_a_batch():
    texts = [f"answer {number % 12}" for number in range(60)]
    batches = [*make_sampler(texts)]
    assert sorted(sum(batches, [])) == [*range(60)]
    assert all(len({texts[index] for index in batch}) == len(batch) for batch in batches)
    assert {*map(len, make_sampler(texts, drop_last=True))} == {8}
