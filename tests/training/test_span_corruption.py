"""Spans: nothing is lost, the shares are as asked, and a worked example."""

import pytest
import torch

from trine import train_unigram
from trine.training.objectives.span_corruption import (
    SENTINELS,
    SpanCorruptionCollator,
    noise_sizes,
    random_lengths,
    text_length,
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_unigram(["some text, and more text"], 480, extra_special_tokens=list(SENTINELS), show_progress=False)


def restore(inputs, labels, sentinels, eos) -> list[int]:
    """The text, by putting each span in the place of its sentinel."""
    spans, current = {}, None
    for token in labels.tolist():
        if token == eos:
            break
        if token in sentinels:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    text = []
    for token in inputs.tolist():
        if token == eos:
            break
        text += spans[token] if token in sentinels else [token]
    return text


@pytest.mark.parametrize(("density", "span"), [(0.15, 3.0), (0.5, 1.0), (0.9, 10.0)])
def test_nothing_is_lost_and_the_shares_are_as_asked(tokenizer, density, span):
    collate = SpanCorruptionCollator(tokenizer, density, span)
    sentinels = collate.sentinels.tolist()
    texts = [torch.randint(110, 480, (length,)) for length in (2, 3, 17, 64, 100, 99)]
    batch = collate([{"input_ids": text} for text in texts])
    for text, row, mask, labels in zip(texts, *batch.values(), strict=True):
        assert restore(row[mask.bool()], labels[labels != -100], sentinels, tokenizer.eos_token_id) == text.tolist()
        assert row[mask == 0].eq(tokenizer.pad_token_id).all()
    hidden = sum(
        int((labels != -100).sum() - torch.isin(labels, collate.sentinels).sum()) - 1 for labels in batch["labels"][3:]
    )
    assert hidden / sum(map(len, texts[3:])) == pytest.approx(density, abs=0.01)
    spans = int(torch.isin(batch["labels"][3:], collate.sentinels).sum())
    kept = sum(map(len, texts[3:])) - hidden
    assert hidden / min(spans, kept) == pytest.approx(span if density < 0.9 else hidden / kept, rel=0.1)


def test_lengths_are_equally_likely():
    counts = {}
    for _ in range(6000):
        lengths = tuple(random_lengths(5, 3).tolist())
        counts[lengths] = counts.get(lengths, 0) + 1
    assert set(counts) == {(1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)}
    assert all(count == pytest.approx(1000, abs=150) for count in counts.values())  # 5 standard deviations
    assert random_lengths(4, 1).tolist() == [4]


def test_an_example_of_the_paper(tokenizer, monkeypatch):
    """'Thank you for inviting me to your party last week', with 'for inviting' and 'last' hidden (figure 2)."""
    parts = iter([torch.tensor([2, 5]), torch.tensor([2, 1])])
    monkeypatch.setattr("trine.training.objectives.span_corruption.random_lengths", lambda total, count: next(parts))
    monkeypatch.setattr("trine.training.objectives.span_corruption.noise_sizes", lambda *_: (3, 2))
    collate = SpanCorruptionCollator(tokenizer)
    first, second = collate.sentinels[:2].tolist()
    inputs, labels = collate.corrupt(torch.arange(210, 220))
    # Every span but the last is followed by text here; the tenth word would begin the next kept part.
    assert inputs.tolist() == [210, 211, first, 214, 215, 216, 217, 218, second, tokenizer.eos_token_id]
    assert labels.tolist() == [first, 212, 213, second, 219, tokenizer.eos_token_id]


def test_lengths_of_the_paper():
    """T5's 512 tokens of input come from 568 of text, and its targets have 114."""
    assert text_length(512, 0.15, 3.0) == 568
    noise, spans = noise_sizes(568, 0.15, 3.0)
    assert noise + spans + 1 == 114


def test_errors(tokenizer):
    with pytest.raises(ValueError, match="noise_density=1.0 must lie between"):
        SpanCorruptionCollator(tokenizer, 1.0)
    with pytest.raises(ValueError, match="mean_span_length=0.5 must be at least 1"):
        SpanCorruptionCollator(tokenizer, 0.1, 0.5)
    with pytest.raises(ValueError, match="of which it lacks .'<extra_id_0>'"):
        SpanCorruptionCollator(train_unigram(["text"], 400, show_progress=False))
    with pytest.raises(ValueError, match="A text of 1 tokens has no span"):
        SpanCorruptionCollator(tokenizer)([{"input_ids": [5]}])
    with pytest.raises(ValueError, match="gets 200 spans, and there are 100 sentinels"):
        SpanCorruptionCollator(tokenizer, 0.5, 1.0)([{"input_ids": torch.full((400,), 5)}])
    with pytest.raises(ValueError, match="input_length=2 is too short"):
        text_length(2, 0.15, 3.0)
