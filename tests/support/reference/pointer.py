"""The pointer-generator: See et al. 2017, arXiv 1704.04368, with copy attention of its own."""

import math

import torch
from support.reference.models import trunk
from support.reference.weights import Weights, linear, softmax


def normalised(x: torch.Tensor) -> torch.Tensor:
    """A vector of mean 0 and variance 1: Ba et al. 2016, arXiv 1607.06450, without weights."""
    centred = x - x.mean()
    return centred / torch.sqrt((centred * centred).mean() + 1e-5)


def copy_attention(config, weights: Weights, source: list[int], target: list[int]):
    """The states that predict (T, hidden), p_gen of each (T), and its attention to the source (T, S)."""
    memory = trunk(config.encoder, weights["model"]["encoder"], source)
    states = trunk(config.decoder, weights["model"]["decoder"], target, source=memory)
    pointer, table = weights["pointer"], weights["model"]["encoder"]["embed_tokens.weight"]
    keys = []
    for i, token in enumerate(source):
        key = pointer["state_key.weight"] @ memory[i] + pointer["token_key.weight"] @ normalised(table[token])
        if i > 0:
            key = key + pointer["previous_key.weight"] @ normalised(table[source[i - 1]])
        keys.append(key)
    chances, attentions = [], []
    for query, state in zip(linear(states, pointer["query"]), states, strict=True):
        attention = softmax(torch.stack([query @ key for key in keys]) / math.sqrt(config.pointer_size))
        context = sum(weight * row for weight, row in zip(attention, memory, strict=True))
        gate = linear(torch.cat([state, context])[None], pointer["gate"])[0, 0]
        chances.append(1 / (1 + torch.exp(-gate)))
        attentions.append(attention)
    return states, chances, attentions


def pointer_log_probs(config, weights: Weights, source: list[int], target: list[int]) -> torch.Tensor:
    """log P(w) (T, V) after each token of the target: equation 9."""
    rows = []
    for state, p_gen, attention in zip(*copy_attention(config, weights, source, target), strict=True):
        by_vocabulary = softmax(linear(state[None] * config.logit_scale, weights["lm_head"])[0])
        chances = []
        for token in range(config.vocab_size):
            copied = sum((attention[i] for i, other in enumerate(source) if other == token), torch.zeros(()).double())
            chances.append(p_gen * by_vocabulary[token] + (1 - p_gen) * copied)
        rows.append(torch.log(torch.stack(chances)))
    return torch.stack(rows)


def pointer_coverage(config, weights: Weights, source: list[int], target: list[int]) -> list[torch.Tensor]:
    """The coverage loss of each token of the target: equations 10 and 12."""
    _, _, attentions = copy_attention(config, weights, source, target)
    losses, coverage = [], [torch.zeros(()).double()] * len(source)
    for attention in attentions:
        losses.append(sum(torch.minimum(a, c) for a, c in zip(attention, coverage, strict=True)))
        coverage = [c + a for a, c in zip(attention, coverage, strict=True)]
    return losses
