"""The counting baselines against loops over dictionaries and against known entropies."""

import math
from collections import Counter

import pytest
import torch

from trine.training.measures.baselines import BigramCounts, ngram_losses


V = 7


@pytest.fixture
def tokens():
    return torch.randint(0, V - 1, (60,), generator=torch.Generator().manual_seed(0))  # token V - 1 never occurs


def slow_bigram(tokens, previous, following, discount):
    """Interpolated Kneser-Ney, one pair at a time."""
    pairs = Counter(zip(tokens[:-1], tokens[1:], strict=True))
    continuation = (len({a for a, b in pairs if b == following}) + 0.5) / (len(pairs) + 0.5 * V)
    total = sum(count for (a, _), count in pairs.items() if a == previous)
    if not total:
        return continuation
    types = len({b for a, b in pairs if a == previous})
    return max(pairs[previous, following] - discount, 0) / total + discount * types / total * continuation


@pytest.mark.parametrize("discount", [0.1, 0.75])
def test_bigram_equals_loop_and_sums_to_one(tokens, discount):
    counts = BigramCounts(tokens, V)
    grid = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    fast = counts.bigram(grid[:, 0], grid[:, 1], discount)
    slow = [slow_bigram(tokens.tolist(), a, b, discount) for a, b in grid.tolist()]
    torch.testing.assert_close(fast, torch.tensor(slow, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(fast.view(V, V).sum(1), torch.ones(V, dtype=torch.float64))


def test_unigram_equals_counting(tokens):
    slow = [(tokens.tolist().count(token) + 0.5) / (len(tokens) + 0.5 * V) for token in range(V)]
    torch.testing.assert_close(
        BigramCounts(tokens, V).unigram(torch.arange(V)), torch.tensor(slow, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_losses_are_those_of_the_predicted_tokens(tokens):
    blocks = tokens[:24].view(4, 6)
    losses = ngram_losses(tokens, blocks, V)
    pairs = [(a, b) for row in blocks.tolist() for a, b in zip(row, row[1:], strict=False)]
    slow = -sum(math.log(slow_bigram(tokens.tolist(), a, b, losses.discount)) for a, b in pairs) / len(pairs)
    assert losses.bigram == pytest.approx(slow, rel=1e-12)
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


def test_discount_is_the_best_on_the_end_of_the_training_tokens(tokens):
    part, rest = tokens[:54].tolist(), tokens[54:].tolist()

    def loss(discount):
        return -sum(math.log(slow_bigram(part, a, b, discount)) for a, b in zip(rest, rest[1:], strict=False))

    chosen = ngram_losses(tokens, tokens.view(2, 30), V).discount
    assert loss(chosen) == min(loss(value / 100) for value in (10, 20, 30, 40, 50, 60, 70, 80, 90, 95))


def test_errors():
    with pytest.raises(ValueError, match="train_tokens holds 5 tokens"):
        ngram_losses(torch.zeros(5), torch.zeros(1, 4), V)
    with pytest.raises(ValueError, match="validation_blocks has the token 7 outside vocab_size=7"):
        ngram_losses(torch.zeros(50), torch.full((1, 4), 7), V)
