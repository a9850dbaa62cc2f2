"""Blocks of tokens in one exported program that serves texts of all lengths."""

import torch


def serves_all_lengths(length: int) -> bool:
    """Whether `length` is symbolic, so that no branch may depend on it."""
    return torch.compiler.is_exporting() and isinstance(length, torch.SymInt)


def block_count(length: int, size: int) -> int:
    """Blocks of `size` places that hold so many tokens.

    Where all lengths are served, one or two are added: a program for two blocks or more is none for a single one,
    whose sizes of 1 broadcast.
    """
    return length // size + 2 if serves_all_lengths(length) else -(-length // size)


def block_width(length: int, size: int) -> int:
    """Places of a block: as many as there are tokens, where these are fewer than `size`."""
    return size if serves_all_lengths(length) else min(size, length)
