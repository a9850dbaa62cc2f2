"""The counting baselines against loops over dictionaries and against known entropies."""

import math
from collections import Counter

import pytest
import torch

from trine.training.measures.baselines import NgramModel, ngram_losses


V = 7


@pytest.fixture
def tokens():
    return torch.randint(0, V - 1, (60,), generator=torch.Generator().manual_seed(0))  # token V - 1 never occurs


def slow(stream, context, token, is_highest=True):
    """Interpolated Kneser-Ney, one n-gram at a time: `token` after the tuple `context` in a list."""
    length = len(context) + 1
    grams = Counter(tuple(stream[place : place + length]) for place in range(len(stream) - length + 1))
    if not is_highest:
        longer = {tuple(stream[place : place + length + 1]) for place in range(len(stream) - length)}
        grams = Counter(gram[1:] for gram in longer)
    if not context:
        return (grams[(token,)] + 0.5) / (sum(grams.values()) + 0.5 * V)
    sizes = Counter(grams.values())
    discount = sizes[1] / (sizes[1] + 2 * sizes[2])
    after = [count for gram, count in grams.items() if gram[:-1] == context]
    shorter = slow(stream, context[1:], token, is_highest=False)
    if not after:
        return shorter
    own = max(grams[(*context, token)] - discount, 0) / sum(after)
    return own + discount * len(after) / sum(after) * shorter


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_equal_the_loop_and_sum_to_one(tokens, order):
    model = NgramModel(tokens, V, order)
    seen = tokens[10 : 10 + order - 1].repeat(V, 1)
    unseen = torch.tensor([V - 1, 0, V - 1])[-order + 1 :].repeat(V, 1) if order > 1 else seen
    for context in (seen, unseen):
        texts = torch.cat([context, torch.arange(V)[:, None]], dim=1)
        found = model.probabilities(texts)
        for row, text in zip(found.tolist(), texts.tolist(), strict=True):
            for place, probability in enumerate(row):
                short = slow_at(tokens.tolist(), order, text[:place], text[place])
                assert probability == pytest.approx(short, rel=1e-12)
        assert found[:, -1].sum().item() == pytest.approx(1.0, rel=1e-12)


def slow_at(stream, order, before, token):
    """At the beginning of a text, the model that is as short as what stands before."""
    return slow(stream, tuple(before), token, is_highest=len(before) == order - 1)


def test_an_order_below_one_is_refused(tokens):
    with pytest.raises(ValueError, match="order=0 must be at least 1"):
        NgramModel(tokens, V, 0)


def test_losses_are_those_of_the_predicted_tokens(tokens):
    blocks = tokens[:24].view(4, 6)
    losses = ngram_losses(tokens, blocks, V)
    pairs = [(a, b) for row in blocks.tolist() for a, b in zip(row, row[1:], strict=False)]
    expected = -sum(math.log(slow(tokens.tolist(), (a,), b)) for a, b in pairs) / len(pairs)
    assert losses.bigram == pytest.approx(expected, rel=1e-12)
    unigram = [(tokens.tolist().count(b) + 0.5) / (len(tokens) + 0.5 * V) for _, b in pairs]
    assert losses.unigram == pytest.approx(-sum(map(math.log, unigram)) / len(pairs), rel=1e-12)


def test_markov_chain_reaches_its_entropy_rate():
    generator = torch.Generator().manual_seed(1)
    transition = torch.rand(V, V, generator=generator, dtype=torch.float64) ** 4
    transition /= transition.sum(1, keepdim=True)
    chain = [0]
    for _ in range(60_000):
        chain.append(int(torch.multinomial(transition[chain[-1]], 1, generator=generator)))
    chain = torch.tensor(chain)
    stationary = torch.linalg.matrix_power(transition, 200)[0]
    rate = -(stationary[:, None] * transition * transition.log()).sum().item()
    entropy = -(stationary * stationary.log()).sum().item()
    losses = ngram_losses(chain[:50_000], chain[50_000:].view(-1, 1)[:10_000].view(100, 100), V)
    assert losses.bigram == pytest.approx(rate, abs=0.03)
    assert losses.unigram == pytest.approx(entropy, abs=0.03)
    assert losses.unigram - losses.bigram > 0.1


def test_errors():
    with pytest.raises(ValueError, match="train_tokens holds 5 tokens"):
        ngram_losses(torch.zeros(5), torch.zeros(1, 4), V)
    with pytest.raises(ValueError, match="validation_blocks has the token 7 outside vocab_size=7"):
        ngram_losses(torch.zeros(50), torch.full((1, 4), 7), V)
