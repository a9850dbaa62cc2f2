"""Baselines that only count: unigram and bigram models of the tokens, in nats per token.

A language model that does not beat the bigram has learned less than which token follows which.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


DISCOUNTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
HELD_OUT = 0.1  # the last part of the training tokens, on which the discount is chosen


@dataclass(frozen=True)
class NgramLosses:
    """Mean negative log-likelihoods in nats per token, and the discount that the bigram model uses."""

    unigram: float
    bigram: float
    discount: float


def ngram_losses(train_tokens: Tensor, validation_blocks: Tensor, vocab_size: int) -> NgramLosses:
    """Fit both models on a stream of tokens (N,) and evaluate them on blocks (number of blocks, block length).

    The first token of each block is not scored: these are the predictions that a causal model makes of such blocks.
    The discount of the bigram model is chosen on the end of the training tokens, then all of them are counted.

    Raises:
        ValueError: fewer than 20 training tokens, or a token outside the vocabulary.
    """
    train_tokens, validation_blocks = train_tokens.long(), validation_blocks.long()
    if len(train_tokens) < 20:
        raise ValueError(f"train_tokens holds {len(train_tokens)} tokens; at least 20 are needed.")
    for name, tokens in (("train_tokens", train_tokens), ("validation_blocks", validation_blocks)):
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise ValueError(f"{name} has the token {int(tokens.max())} outside vocab_size={vocab_size}.")
    border = int(len(train_tokens) * (1 - HELD_OUT))
    part, held_out = BigramCounts(train_tokens[:border], vocab_size), train_tokens[border:]
    discount = min(DISCOUNTS, key=lambda value: _loss(part.bigram(held_out[:-1], held_out[1:], value)))
    counts = BigramCounts(train_tokens, vocab_size)
    previous, following = validation_blocks[:, :-1].flatten(), validation_blocks[:, 1:].flatten()
    return NgramLosses(
        unigram=_loss(counts.unigram(following)),
        bigram=_loss(counts.bigram(previous, following, discount)),
        discount=discount,
    )


def _loss(probabilities: Tensor) -> float:
    return -probabilities.log().mean().item()


class BigramCounts:
    """The unigram and the bigram distribution of a stream of tokens.

    The bigram model is interpolated Kneser-Ney smoothing: a discount is taken from the count of each seen pair and
    given to a unigram distribution that counts in how many contexts a token occurs, not how often. Half a count is
    added to every token, so that no probability is zero.

    Source: Chen and Goodman 1999, An empirical study of smoothing techniques, section 2.7.
    """

    def __init__(self, tokens: Tensor, vocab_size: int):
        self.vocab_size = vocab_size
        self.pairs, pair_counts = torch.unique(tokens[:-1] * vocab_size + tokens[1:], return_counts=True)
        self.pair_counts = pair_counts.double()
        contexts = self.pairs // vocab_size
        self.context_counts = torch.zeros(vocab_size).double().index_add_(0, contexts, self.pair_counts)
        self.context_types = torch.bincount(contexts, minlength=vocab_size).double()
        self._unigram = _smoothed(torch.bincount(tokens, minlength=vocab_size))
        self._continuation = _smoothed(torch.bincount(self.pairs % vocab_size, minlength=vocab_size))

    def unigram(self, tokens: Tensor) -> Tensor:
        """Probabilities of tokens (...), in double precision."""
        return self._unigram[tokens]

    def bigram(self, previous: Tensor, following: Tensor, discount: float) -> Tensor:
        """Probabilities of `following` (...) after `previous` (...); after unseen ones, of continuation."""
        pairs = previous * self.vocab_size + following
        index = torch.searchsorted(self.pairs, pairs).clamp(max=len(self.pairs) - 1)
        counts = torch.where(self.pairs[index] == pairs, self.pair_counts[index], 0.0)
        contexts = self.context_counts[previous]
        weight = torch.where(contexts > 0, discount * self.context_types[previous] / contexts.clamp(min=1), 1.0)
        return (counts - discount).clamp(min=0) / contexts.clamp(min=1) + weight * self._continuation[following]


def _smoothed(counts: Tensor) -> Tensor:
    counts = counts.double() + 0.5
    return counts / counts.sum()
