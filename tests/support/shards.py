"""Checkpoints in several shards, of which one is damaged."""

import torch
from support.tiny import tiny_model


def damaged_shards(folder, damage):
    """A checkpoint in several shards, of which one is damaged. Returns the name of that shard."""
    tiny_model(dtype=torch.float32).save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) >= 3
    damage(folder / shards[1])
    return shards[1]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def cut_the_header(path):
    path.write_bytes(path.read_bytes()[:20])


def scribble(path):
    path.write_bytes(b"\xff" * 100)
