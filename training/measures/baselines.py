"""Baselines that only count: n-gram models of the tokens.

A language model that does not beat the bigram has learned less than which token follows which.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NgramLosses:
    """Mean negative log-likelihoods in nats per token."""

    unigram: float
    bigram: float


def ngram_losses(train_tokens: Tensor, validation_blocks: Tensor, vocab_size: int) -> NgramLosses:
    """Fit both models on a stream of tokens (N,) and evaluate them on blocks (number of blocks, block length).

    The first token of each block is not scored: these are the predictions that a causal model makes of such blocks.

    Raises:
        ValueError: fewer than 20 training tokens, or a token outside the vocabulary.
    """
    if len(train_tokens) < 20:
        raise ValueError(f"train_tokens holds {len(train_tokens)} tokens; at least 20 are needed.")
    for name, tokens in (("train_tokens", train_tokens), ("validation_blocks", validation_blocks)):
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise ValueError(f"{name} has the token {int(tokens.max())} outside vocab_size={vocab_size}.")
    losses = [
        -NgramModel(train_tokens, vocab_size, order).probabilities(validation_blocks)[:, 1:].log().mean().item()
        for order in (1, 2)
    ]
    return NgramLosses(*losses)


@dataclass(frozen=True)
class _Level:
    """The n-grams of one length that occur, as `number of the shorter one * vocab_size + token`, in order.

    Args:
        grams: These keys.
        counts: How often each counts: at the model's own length how often it occurs, below in how many contexts.
        totals: The sum of the counts after each shorter n-gram.
        kinds: The number of tokens after each shorter n-gram.
        discount: What is taken from each count.
    """

    grams: Tensor
    counts: Tensor
    totals: Tensor
    kinds: Tensor
    discount: float


class NgramModel:
    """An n-gram model of a stream of tokens, smoothed by interpolated Kneser-Ney.

    From each count a discount is taken, `n1 / (n1 + 2 * n2)` of the numbers that count once and twice. The model that
    is one token shorter gets it, and counts in how many contexts an n-gram occurs, not how often.
    Half a count is added to every single token, so that no probability is zero.

    Source: Chen and Goodman 1999, An empirical study of smoothing techniques, sections 2.7 and 4.1.

    Args:
        tokens: The stream (N,).
        vocab_size: Number of different tokens.
        order: Length of the n-grams: 1 counts tokens alone, 5 looks four tokens back.
    """

    def __init__(self, tokens: Tensor, vocab_size: int, order: int):
        if order < 1:
            raise ValueError(f"order={order} must be at least 1.")
        self.vocab_size, tokens = vocab_size, tokens.long()
        numbers, grams = tokens, []
        # Of each length: how often an n-gram occurs, and where there are longer ones, in how many contexts.
        counts = [torch.bincount(tokens, minlength=vocab_size).double()]
        for length in range(2, order + 1):
            keys = numbers[:-1] * vocab_size + tokens[length - 1 :]
            found, places, often = torch.unique(keys, return_inverse=True, return_counts=True)
            ending = torch.empty_like(found)
            ending[places] = numbers[1:]  # the n-gram without its first token, whichever of its occurrences is last
            counts[-1] = torch.bincount(ending, minlength=len(counts[-1])).double()
            counts.append(often.double())
            grams.append(found)
            numbers = places
        self.base = (counts[0] + 0.5) / (counts[0] + 0.5).sum()
        sizes = [vocab_size, *map(len, grams)]
        self.levels = [self._level(*each) for each in zip(grams, counts[1:], sizes, strict=False)]

    def _level(self, grams: Tensor, counts: Tensor, shorter: int) -> _Level:
        context = grams // self.vocab_size
        totals, kinds = (
            torch.zeros(shorter).double().index_add_(0, context, each) for each in (counts, counts.sign())
        )
        once, twice = ((counts == number).sum().item() for number in (1, 2))
        return _Level(grams, counts, totals, kinds, once / (once + 2 * twice) if once else 0.5)

    def probabilities(self, texts: Tensor) -> Tensor:
        """Of each token of texts (number of texts, length), after those before it in its text, in double precision."""
        texts = texts.long()
        result, numbers = self.base[texts], texts
        for length, level in enumerate(self.levels, start=2):
            context, following = numbers[:, :-1], texts[:, length - 1 :]
            keys = torch.where(context < 0, -1, context * self.vocab_size + following)
            numbers = torch.searchsorted(level.grams, keys).clamp(max=len(level.grams) - 1)
            numbers = torch.where(level.grams[numbers] == keys, numbers, -1)  # -1: it does not occur
            counts = torch.where(numbers < 0, 0.0, level.counts[numbers])
            total = torch.where(context < 0, 0.0, level.totals[context])
            left = torch.where(total > 0, level.discount * level.kinds[context] / total.clamp(min=1), 1.0)
            own = (counts - level.discount).clamp(min=0) / total.clamp(min=1)
            result[:, length - 1 :] = own + left * result[:, length - 1 :]
        return result
