"""The chunks of 2-simplicial attention: some queries, their windows, and their joint softmax."""

# Shapes: B batch, H heads, G key-value heads, R = H / G, Q queries, K keys, M second keys, D head size;
# in a chunk: N batch x key-value heads, C queries, W keys that they may see, T second keys that each may see.

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn import functional

from .forms import FORMS
from .inputs import SimplicialInputs


# Logits that exist at a time. On a CPU they stay in its cache; elsewhere, few launches matter more.
BLOCK_LOGITS = {"cpu": 2**20}
BLOCK_LOGITS_ELSEWHERE = 2**26
# A call that trains keeps weights for its backward pass, and what they mix, where all of them take no more bytes.
KEPT_BYTES = 2**23
# Queries in a chunk: more see more keys in vain, fewer make more steps, which counts where the logits are few.
CHUNK_LENGTH, FEW_LOGITS = 16, 2**16
# A chunk's keys are a multiple of this where there are so many: rows of logits that fill cache lines multiply faster.
ALIGNMENT = 16


class Chunk(NamedTuple):
    """The part of a problem that is computed at once: slices of the following axes.

    Attributes:
        heads: Batch x key-value heads.
        queries: Queries.
        keys: The first keys that one of those may see.
        seconds: The second keys that one of those may see, counted in the padded sequence.
    """

    heads: slice
    queries: slice
    keys: slice
    seconds: slice


class ChunkBlocks:
    """Memory for a result of each chunk: always the same, as fresh memory is slow at first, or one after the other."""

    def __init__(self, memory: torch.Tensor, keeps: bool = False):
        self.memory, self.keeps, self.used = memory, keeps, 0

    def take(self, *shape: int) -> torch.Tensor:
        """A tensor in the memory, which is what was written there."""
        size, start = math.prod(shape), self.used
        self.used += size if self.keeps else 0
        return self.memory[start : start + size].view(shape)

    def multiply(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The products (N, A, C) of (N, A, B) and (N, B, C)."""
        return torch.bmm(left, right, out=self.take(*left.shape[:2], right.shape[2]))


class ChunkedProblem:
    """One call: its tensors with heads flattened to N = B * G, its windows, and its chunks."""

    def __init__(self, inputs: SimplicialInputs):
        query, key, value, second_key, second_value, offset_bias, segments = inputs[:7]
        self.num_queries, self.num_keys, self.num_seconds = query.shape[2], key.shape[2], second_key.shape[2]
        self.first_offset, self.second_offset = self.num_keys - self.num_queries, self.num_seconds - self.num_queries
        self.batch, self.groups = key.shape[:2]
        self.repeat = query.shape[1] // self.groups
        self.first, self.second = inputs.first, inputs.second
        self.form, self.scale = FORMS[inputs.form], inputs.scale
        self.shape, self.query = query.shape, self.by_group(query)
        self.key, self.value = key.flatten(0, 1), value.flatten(0, 1)  # (N, K, D)
        # What windows have before the first second key and after the last.
        self.padding = max(0, self.second.left - self.second_offset), self.second.right
        self.second_key, self.second_value = self.pad(second_key), self.pad(second_value)
        self.bias = None
        if offset_bias is not None:
            bias = offset_bias.to(query.dtype).view(self.groups, self.repeat, 1, -1, 1)
            self.bias = bias.repeat(self.batch, 1, 1, 1, 1)  # (N, R, 1, T, 1)
        self.segments = None if segments is None else segments.repeat_interleave(self.groups, dim=0)
        self.length, width = chunk_shape(inputs)
        rows = self.repeat * self.length * self.second.size
        block = BLOCK_LOGITS.get(self.query.device.type, BLOCK_LOGITS_ELSEWHERE)
        self.heads = max(1, min(len(self.query), block // (rows * width)))  # batch x key-value heads in a chunk
        self.sizes = self.heads * rows * width, self.heads * rows * self.query.shape[-1]  # of logits, and of rows
        self.mask, self.mask_place = self.query, None

    def make_blocks(self) -> tuple["ChunkBlocks", "ChunkBlocks"]:
        """Memory for the logits (N, R * C * T, W) of any chunk, and for its rows (N, R * C * T, D)."""
        logits, rows = (ChunkBlocks(self.query.new_empty(size)) for size in self.sizes)
        return logits, rows

    def by_group(self, states: torch.Tensor) -> torch.Tensor:
        """(B, H, Q, D) as (N, R, Q, D)."""
        return states.reshape(-1, self.repeat, *states.shape[2:])

    def pad(self, states: torch.Tensor) -> torch.Tensor:
        """(B, G, M, D) as (N, M + padding, D)."""
        states = states.flatten(0, 1)
        return functional.pad(states, (0, 0, *self.padding)) if any(self.padding) else states

    def chunks(self) -> Iterator[Chunk]:
        """Cuts heads and queries so that a chunk's logits fit the block."""
        for head in range(0, len(self.query), self.heads):
            for start in range(0, self.num_queries, self.length):
                stop = min(start + self.length, self.num_queries)
                right = min(self.num_keys, self.first_offset + stop + self.first.right)
                left = max(0, right - align(right - self.first_offset - start + self.first.left))
                reach = self.padding[0] + self.second_offset + start - self.second.left
                seconds = slice(reach, reach + stop - start + self.second.size - 1)
                yield Chunk(slice(head, head + self.heads), slice(start, stop), slice(left, right), seconds)

    def windows(self, states: torch.Tensor, chunk: Chunk) -> torch.Tensor:
        """The second window of each query, a view (N, 1, C, T, D) of padded states."""
        return states[chunk.heads, chunk.seconds].unfold(1, self.second.size, 1).transpose(-1, -2)[:, None]

    def compose(self, chunk: Chunk) -> torch.Tensor:
        """Scaled queries composed with each of their second keys, (N, R * C * T, D)."""
        query = self.query[chunk.heads, :, chunk.queries, None] * self.scale
        return self.form.compose(query, self.windows(self.second_key, chunk)).flatten(1, 3)

    def weights(self, composed: torch.Tensor, chunk: Chunk, blocks: "ChunkBlocks") -> torch.Tensor:
        """The joint softmax (N, R * C * T, W), which sums to 1 over T and W."""
        key = self.key[chunk.heads, chunk.keys]
        logits = blocks.multiply(composed, key.transpose(1, 2))
        windows = logits.view(len(key), self.repeat, -1, self.second.size, key.shape[1])
        if self.bias is not None:
            windows += self.bias[chunk.heads]
        self.hide(windows, chunk)
        flat = windows.flatten(-2)
        return torch.softmax(flat, dim=-1, out=flat).view_as(logits)

    def first_mask(self, distance: int, length: int, width: int) -> torch.Tensor:
        """The mask (C, 1, W) to add to logits (N, R, C, T, W): 0 in the first window, the lowest number outside.

        Most chunks share the mask of the chunk before.

        Args:
            distance: From the chunk's first query to its first key.
            length: C.
            width: W.
        """
        if self.mask_place != (distance, length, width):
            self.mask_place = distance, length, width
            steps = torch.arange(width) - torch.arange(length)[:, None] + distance
            outside = (steps < -self.first.left) | (steps > self.first.right)
            lowest = torch.finfo(self.query.dtype).min
            self.mask = torch.zeros(length, 1, width, dtype=self.query.dtype).masked_fill_(outside[:, None], lowest)
            self.mask = self.mask.to(self.query.device)
        return self.mask

    def hide(self, logits: torch.Tensor, chunk: Chunk) -> None:
        """Sets the logits (N, R, C, T, W) of pairs that a query does not see to the lowest number."""
        lowest, device = torch.finfo(logits.dtype).min, logits.device
        distance = chunk.keys.start - chunk.queries.start - self.first_offset
        length, width = chunk.queries.stop - chunk.queries.start, chunk.keys.stop - chunk.keys.start
        if distance + width - 1 > self.first.right or distance - length + 1 < -self.first.left:
            mask, edge = self.first_mask(distance, length, width), self.length + ALIGNMENT
            for columns in (slice(0, edge), slice(max(edge, width - edge), width)):  # windows end nowhere else
                logits[..., columns] += mask[..., columns]
        if chunk.seconds.start < self.padding[0] or chunk.seconds.stop > self.padding[0] + self.num_seconds:
            rows = torch.arange(chunk.queries.start, chunk.queries.stop, device=device)[:, None]
            offsets = torch.arange(-self.second.left, self.second.right + 1, device=device)
            index = rows + self.second_offset + offsets
            logits.masked_fill_(((index < 0) | (index >= self.num_seconds))[..., None], lowest)
        if self.segments is not None:
            ids, last = self.segments[chunk.heads], self.segments.shape[1]
            own = ids[:, last - self.num_queries :][:, chunk.queries, None]
            firsts = ids[:, None, last - self.num_keys :][..., chunk.keys]
            logits.masked_fill_((firsts != own)[:, None, :, None], lowest)
            seconds = functional.pad(ids[:, last - self.num_seconds :], self.padding)[:, chunk.seconds]
            seconds = seconds.unfold(1, self.second.size, 1)
            logits.masked_fill_((seconds != own)[:, None, ..., None], lowest)

    def clear_padding(self, states: torch.Tensor) -> torch.Tensor:
        """Zeroes what belongs to queries of segment 0, (N, R, Q, D)."""
        if self.segments is None:
            return states
        return states.masked_fill(self.segments[:, None, -self.num_queries :, None] == 0, 0)


def chunk_shape(inputs: SimplicialInputs) -> tuple[int, int]:
    """The most queries of a chunk, and the most first keys that they may see."""
    batch, heads, queries, _ = inputs.query.shape
    keys, length = inputs.key.shape[2], min(CHUNK_LENGTH, queries)
    span = min(keys, inputs.first.size)
    if batch * heads * length * inputs.second.size * (span + length) < FEW_LOGITS:
        length = min(2 * CHUNK_LENGTH, queries)
    return length, min(keys, align(span + length - 1))


def kept_size(inputs: SimplicialInputs) -> int:
    """The most numbers that the weights of all chunks take, with what they mix."""
    _, width = chunk_shape(inputs)
    return inputs.query[..., 0].numel() * inputs.second.size * (width + inputs.query.shape[-1])


def align(width: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-width // ALIGNMENT) * ALIGNMENT
