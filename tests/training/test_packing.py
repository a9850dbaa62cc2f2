"""Packing loses no token, and restarts positions where documents start."""

import pytest
import torch

from trine.training.data.packing import PackedBlocks


def test_blocks_are_the_stream():
    tokens = torch.arange(23, dtype=torch.int32)
    data = PackedBlocks(tokens, 5)
    assert len(data) == 4
    assert torch.equal(torch.cat([item["input_ids"] for item in data]), torch.arange(20))
    assert all(
        torch.equal(item["input_ids"], item["labels"]) and set(item) == {"input_ids", "labels"} for item in data
    )


def test_a_memory_mapped_stream(tmp_path):
    torch.arange(12, dtype=torch.int32).numpy().tofile(tmp_path / "tokens")
    tokens = torch.from_file(str(tmp_path / "tokens"), size=12, dtype=torch.int32)
    assert PackedBlocks(tokens, 4)[2]["input_ids"].tolist() == [8, 9, 10, 11]


@pytest.mark.parametrize(
    ("block", "positions"),
    [
        ([5, 6, 9, 7, 8, 9, 4, 4], [0, 1, 2, 0, 1, 2, 0, 1]),
        ([9, 9, 9, 1, 2, 3, 4, 9], [0, 0, 0, 0, 1, 2, 3, 4]),
        ([1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_positions_restart_after_a_separator(block, positions):
    assert PackedBlocks(torch.tensor(block), 8, separator_id=9)[0]["position_ids"].tolist() == positions


def test_errors():
    with pytest.raises(ValueError, match="has 3 tokens, fewer than one block of block_length=4"):
        PackedBlocks(torch.arange(3), 4)
    with pytest.raises(ValueError, match="block_length=1 must"):
        PackedBlocks(torch.arange(3), 1)
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        PackedBlocks(torch.zeros(2, 2), 2)
